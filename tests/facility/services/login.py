"""A login flow of globus_sdk without a browser: a person of the stand-in agrees to whatever is asked."""

from __future__ import annotations

from typing import Any

import globus_sdk
from globus_sdk.gare import GlobusAuthorizationParameters
from globus_sdk.login_flows import LoginFlowManager

from .web import WebServices


class ScriptedLogin(LoginFlowManager):
    """A person at a browser, without a browser."""

    def __init__(self, login_client: globus_sdk.AuthLoginClient, services: WebServices, username: str, **more: Any):
        super().__init__(login_client, **more)
        self.services, self.username = services, username

    def run_login_flow(self, auth_parameters: GlobusAuthorizationParameters) -> globus_sdk.OAuthTokenResponse:
        redirect = f"{self.services.url}/v2/web/auth-code"
        url = self._get_authorize_url(auth_parameters, redirect_uri=redirect)
        return self.login_client.oauth2_exchange_code_for_tokens(self.services.log_in(url, self.username))
