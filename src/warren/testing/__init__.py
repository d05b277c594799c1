"""What tests of services want: a kit, worker processes and the pytest plugin. An edge: nothing imports it."""
