"""Lightning addresses: LUD-16, LUD-06 and LUD-21 as values (docs/protocol/11-advisor-kit.md §8)."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec
from hive_shared.errors import HiveError, InvalidParams, PaymentFailed
from hive_shared.web_address import host_of, public_url

_USER: Final = re.compile(r"[a-z0-9._+-]{1,64}")
_HOST: Final = re.compile(r"[a-z0-9][a-z0-9.-]{0,252}(:[1-9][0-9]{0,4})?")


class PayRequest(msgspec.Struct, frozen=True):
    """What an address answers: where invoices come from, and for which amounts."""

    callback: str
    host: str
    least_msat: int
    most_msat: int


def is_host(text: str) -> bool:
    """Whether a text (lower case) may be a host, with its port or without."""
    return _HOST.fullmatch(text) is not None


def address_url(address: str) -> str:
    """Where an address is asked. Raises InvalidParams for what is none, or is on a private network."""
    user, at, host = address.strip().lower().partition("@")
    if not at or not _USER.fullmatch(user) or not is_host(host):
        raise InvalidParams(f"{address[:80]!a} is no Lightning address; one looks like name@example.com")
    scheme = "http" if host.partition(":")[0].endswith(".onion") else "https"
    return checked_url(f"{scheme}://{host}/.well-known/lnurlp/{user}", "the address")


def checked_url(url: object, what: str) -> str:
    """A URL that may be asked: https, or http to an onion host, and no private address. Raises
    InvalidParams."""
    try:
        return public_url(url, what)
    except ValueError as error:
        raise InvalidParams(str(error)) from None


def read_pay_request(document: dict[str, Any]) -> PayRequest:
    """The first answer of an address. Raises PaymentFailed."""
    _check_error(document)
    least, most = document.get("minSendable"), document.get("maxSendable")
    if document.get("tag") != "payRequest" or not _whole(least) or not _whole(most):
        raise _bad("is no payRequest with its amounts")
    try:
        callback = checked_url(document.get("callback"), "its callback")
    except InvalidParams as error:
        raise _bad(error.detail) from None
    assert isinstance(least, int) and isinstance(most, int)
    return PayRequest(callback, host_of(callback), least, most)


def invoice_url(request: PayRequest, amount_msat: int) -> str:
    """Where an invoice of this amount is asked for. Raises PaymentFailed where it takes no such amount."""
    if not request.least_msat <= amount_msat <= request.most_msat:
        raise _bad(f"takes {request.least_msat} to {request.most_msat} msat, not {amount_msat}")
    joint = "&" if "?" in request.callback else "?"
    return f"{request.callback}{joint}amount={amount_msat}"


def read_invoice_answer(document: dict[str, Any]) -> tuple[str, str]:
    """(invoice, verify URL or ""). Raises PaymentFailed."""
    _check_error(document)
    invoice, verify = document.get("pr"), document.get("verify")
    if not isinstance(invoice, str):
        raise _bad("answers without an invoice")
    if verify is None:
        return invoice, ""
    try:
        return invoice, checked_url(verify, "its verify URL")
    except InvalidParams as error:
        raise _bad(error.detail) from None


def read_verify(document: dict[str, Any], invoice: str) -> tuple[bool, str]:
    """(settled, preimage or ""). Raises PaymentFailed."""
    _check_error(document)
    settled, preimage, about = (document.get(name) for name in ("settled", "preimage", "pr"))
    if not isinstance(settled, bool) or not isinstance(about, str) or about.lower() != invoice.lower():
        raise _bad("verifies another invoice, or says nothing of it")
    return settled, preimage if settled and isinstance(preimage, str) else ""


def _check_error(document: dict[str, Any]) -> None:
    if document.get("status") == "ERROR":
        said = "".join(c for c in str(document.get("reason", ""))[:200] if c.isprintable())
        raise _bad(f"refuses: {said or 'no reason given'}")


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 53


def _bad(what: str) -> HiveError:
    return PaymentFailed(f"the Lightning address {what}", reason="lnaddress_failed")
