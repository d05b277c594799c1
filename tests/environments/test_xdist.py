"""pytest-xdist: each of its workers has a broker of its own, so services of one name do not meet."""

import pytest

TESTS = """
import pytest
from warren import Service

@pytest.mark.parametrize("number", range(4))
def test_blocking(warren_serve, warren_client, number, worker_id):
    service = Service("same")

    @service.method
    def where(n: int) -> str:
        return f"{worker_id} {n}"

    warren_serve(service)
    assert warren_client.call(where, number) == f"{worker_id} {number}"
"""


@pytest.mark.timeout(1200)
def test_the_plugin_and_its_broker_run_in_parallel(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(TESTS)
    done = pytester.runpytest_subprocess("-n", "2", "-p", "no:cacheprovider")
    done.assert_outcomes(passed=4)
