"""What every process that stays shows over HTTP: `/healthz`, `/readyz`, `/metrics`, `/status`."""
