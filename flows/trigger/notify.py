"""Tells people that they are needed: by the log always, by e-mail and a webhook where configured.

Sending happens in a thread of its own, so that a mail server that hangs keeps no scan waiting.
"""

from __future__ import annotations

import json
import logging
import os
import smtplib
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from email.message import EmailMessage
from urllib.parse import urlsplit

from .config import EmailConfig, NotifyConfig, WebhookConfig

_log = logging.getLogger(__name__)

PASSWORD_VARIABLE = "TOMOPIPE_SMTP_PASSWORD"
_TIMEOUT_S = 30.0
_MESSAGES_MAX = 100
_REMEMBERED_MAX = 10_000

Send = Callable[[str, str], None]
"""Sends a subject and a text."""


class Notifier:
    """Collects what people should hear of, and sends it at most once in a while.

    Parameters
    ----------
    config : NotifyConfig
    clock : callable
        Gives seconds that never go back.
    senders : sequence of callable, optional
        By default what is configured.
    """

    def __init__(
        self, config: NotifyConfig, clock: Callable[[], float] = time.monotonic, senders: list[Send] | None = None
    ) -> None:
        self._interval_s = config.interval_s
        self._clock = clock
        self._senders = _senders(config) if senders is None else senders
        self._lock = threading.Lock()
        self._told: dict[str, str] = {}
        self._waiting: list[str] = []
        self._left_out = 0
        self._last_sent = float("-inf")
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def tell(self, about: str, text: str) -> None:
        """Say something of a matter; the same text of the same matter is said once, until the matter is settled."""
        with self._lock:
            if self._told.get(about) == text:
                return
            while len(self._told) >= _REMEMBERED_MAX:
                del self._told[next(iter(self._told))]
            self._told[about] = text
            _log.warning("%s", text)
            if not self._senders:
                return
            if len(self._waiting) < _MESSAGES_MAX:
                self._waiting.append(text)
            else:
                self._left_out += 1

    def settled(self, about: str) -> None:
        """Say that a matter is in order again; what is said of it later is news."""
        with self._lock:
            told = self._told.pop(about, None)
        if told is not None:
            _log.info("in order again: %s", told)

    def start(self) -> None:
        """Begin to send."""
        if self._senders and self._thread is None:
            self._thread = threading.Thread(target=self._run, name="notify", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Stop sending; what waits is tried once more, for as long as a server may take."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=2 * _TIMEOUT_S)
            self._thread = None

    def send_due(self, *, now: bool = False) -> bool:
        """Send what waits, where enough time has passed since the last message or `now`; whether something was sent."""
        with self._lock:
            due = now or self._clock() - self._last_sent >= self._interval_s
            if not self._waiting or not due:
                return False
            texts, left_out = self._waiting, self._left_out
            self._waiting, self._left_out = [], 0
            self._last_sent = self._clock()
        if left_out:
            texts = [*texts, f"and {left_out} more; see the log"]
        subject = f"tomopipe trigger on {socket.gethostname()}: {len(texts)} message{'s' if len(texts) > 1 else ''}"
        for send in self._senders:
            try:
                send(subject, "\n\n".join(texts))
            except (OSError, smtplib.SMTPException, ValueError) as error:
                # The addresses and the password are no part of the message of an error.
                _log.error(
                    "people cannot be told (%s: %s); the log has everything", type(error).__name__, _short(error)
                )
        return True

    def _run(self) -> None:
        while not self._stop.wait(1.0):
            self.send_due()
        self.send_due(now=True)


def send_email(config: EmailConfig, subject: str, text: str) -> None:
    """Send a message by SMTP; the password comes from the environment.

    Raises
    ------
    OSError, smtplib.SMTPException
    """
    message = EmailMessage()
    message["Subject"], message["From"], message["To"] = subject, config.sender, ", ".join(config.to)
    message.set_content(text)
    context = ssl.create_default_context()
    connection: smtplib.SMTP
    if config.security == "tls":
        connection = smtplib.SMTP_SSL(config.host, config.port, timeout=_TIMEOUT_S, context=context)
    else:
        connection = smtplib.SMTP(config.host, config.port, timeout=_TIMEOUT_S)
    with connection:
        if config.security == "starttls":
            connection.starttls(context=context)
        if config.user is not None:
            connection.login(config.user, os.environ.get(PASSWORD_VARIABLE, ""))
        connection.send_message(message)


def send_webhook(config: WebhookConfig, subject: str, text: str) -> None:
    """Post a message to a webhook.

    Raises
    ------
    OSError
        It cannot be reached, or does not take it.
    ValueError
        The environment holds no https:// address.
    """
    url = config.url
    if url.startswith("env:"):
        name = url.removeprefix("env:")
        url = os.environ.get(name, "")
        if urlsplit(url).scheme != "https":
            raise ValueError(f"the variable {name} holds no https:// address")
    body = json.dumps({"text": f"{subject}\n\n{text}"}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method="POST")
    # Redirects are not followed: a message goes where the configuration says and nowhere else.
    opener = urllib.request.build_opener(_NoRedirect)
    try:
        with opener.open(request, timeout=_TIMEOUT_S) as answer:
            answer.read(1)
    except urllib.error.HTTPError as error:
        raise OSError(f"the webhook answers {error.code}") from None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None


def _senders(config: NotifyConfig) -> list[Send]:
    senders: list[Send] = []
    if config.email is not None:
        email = config.email
        senders.append(lambda subject, text: send_email(email, subject, text))
    if config.webhook is not None:
        webhook = config.webhook
        senders.append(lambda subject, text: send_webhook(webhook, subject, text))
    return senders


def _short(error: BaseException) -> str:
    if isinstance(error, smtplib.SMTPResponseException):
        return f"the server answers {error.smtp_code}"
    return " ".join(str(error).split())[:200]
