"""Error codes of Core Lightning's JSON-RPC (its common/jsonrpc_errors.h), as far as the node raises them."""

from __future__ import annotations

INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
LIGHTNINGD = -1
PLUGIN_ERROR = -3
PLUGIN_TERMINATED = -4
LIGHTNINGD_SHUTDOWN = -5

PAY_IN_PROGRESS = 200
PAY_RHASH_ALREADY_USED = 201
PAY_DESTINATION_PERM_FAIL = 203
PAY_TRY_OTHER_ROUTE = 204
PAY_ROUTE_NOT_FOUND = 205
PAY_ROUTE_TOO_EXPENSIVE = 206
PAY_INVOICE_EXPIRED = 207
PAY_NO_SUCH_PAYMENT = 208
PAY_UNSPECIFIED_ERROR = 209
PAY_STOPPED_RETRYING = 210
PAY_STATUS_UNEXPECTED = 211
PAY_USER_ERROR = 217
PAY_ALREADY_PAID = 219

FUND_MAX_EXCEEDED = 300
FUND_CANNOT_AFFORD = 301
FUND_OUTPUT_IS_DUST = 302
FUNDING_PEER_NOT_CONNECTED = 305
FUNDING_UNKNOWN_PEER = 306

CONNECT_NO_KNOWN_ADDRESS = 400
CONNECT_ALL_ADDRESSES_FAILED = 401
CONNECT_DISCONNECTED_DURING = 402

INVOICE_LABEL_ALREADY_EXISTS = 900
INVOICE_PREIMAGE_ALREADY_EXISTS = 901
INVOICE_EXPIRED_DURING_WAIT = 903
INVOICE_WAIT_TIMED_OUT = 904
INVOICE_NOT_FOUND = 905
INVOICE_STATUS_UNEXPECTED = 906
INVOICE_NO_DESCRIPTION = 908

DATASTORE_DEL_DOES_NOT_EXIST = 1200
DATASTORE_DEL_WRONG_GENERATION = 1201
DATASTORE_UPDATE_ALREADY_EXISTS = 1202
DATASTORE_UPDATE_DOES_NOT_EXIST = 1203
DATASTORE_UPDATE_WRONG_GENERATION = 1204
DATASTORE_UPDATE_HAS_CHILDREN = 1205
DATASTORE_UPDATE_NO_CHILDREN = 1206

SIGNMESSAGE_PUBKEY_NOT_FOUND = 1301
DELFORWARD_NOT_FOUND = 1401

RUNE_NOT_AUTHORIZED = 1501
RUNE_NOT_PERMITTED = 1502
RUNE_BLACKLISTED = 1503

WAIT_TIMEOUT = 2000


class RpcError(Exception):
    """A command's failure as it goes to the caller: code, sentence and optional data."""

    def __init__(self, code: int, message: str, data: object = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data

    def as_json(self) -> dict[str, object]:
        """The `error` member of a JSON-RPC response."""
        error: dict[str, object] = {"code": self.code, "message": self.message}
        if self.data is not None:
            error["data"] = self.data
        return error


class NodeStartError(Exception):
    """The node refuses to start, as lightningd would exit: bad option, dead plugin, duplicate option."""
