"""What other tools see of Warren: traces and metrics. A module that needs an extra says so."""
