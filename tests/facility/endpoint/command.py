"""The globus-compute-endpoint command, told where the Compute web service is; its own SDK knows fixed addresses only.

Takes the address from GLOBUS_SDK_SERVICE_URL_COMPUTE, as every other client of Globus does.
"""

from __future__ import annotations

import os

from globus_compute_endpoint.cli import cli_run
from globus_compute_sdk.sdk import client

_ADDRESS = os.environ["GLOBUS_SDK_SERVICE_URL_COMPUTE"].rstrip("/")


def _address(environment: str | None = None) -> str:
    return _ADDRESS


client.get_web_service_url = _address
cli_run()
