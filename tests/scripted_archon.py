#!/usr/bin/env python3
"""A cl-hive-archon in a test's hand: the real handshake and authentication, answers from a file.

The file is this program's path plus `.json`: members `answer` (replaces parts of what
hive-archon-verify-credential returns) and `error` (a code to refuse with). Each call is appended to the same
path plus `.jsonl`.
"""

import json
import os
import sys
import time
from pathlib import Path

from hive_shared.cln import ClnClient
from hive_shared.errors import by_code
from hive_shared.runtime import InitInfo, MethodSpec, Param, PluginApp
from hive_shared.siblings import SiblingHub, hello_spec, load_sibling_key

HERE = Path(sys.argv[0])
DID = "did:cid:bagaaierascripted"
objects = {}


async def start(info: InitInfo):
    cln = ClnClient(info.rpc_path, id_prefix="archon")
    objects["hub"] = hub = SiblingHub(
        me="archon",
        version="0.1.0",
        capabilities=("vc.v1",),
        cln=cln,
        key=await load_sibling_key(cln, info.net_dir),
        now=lambda: int(time.time()),
        random_bytes=os.urandom,
        identity=lambda: {"did": DID},
        db_schema=1,
        log=app.log,
    )
    app.authenticate = hub.verify
    app.spawn("siblings", hub.run)


async def hello(params):
    return await objects["hub"].hello(params)


async def verify(params):
    with HERE.with_name(HERE.name + ".jsonl").open("a") as record:
        record.write(json.dumps(params) + "\n")
    script = json.loads(HERE.with_name(HERE.name + ".json").read_text())
    if "error" in script:
        raise by_code(script["error"])("the script says so")
    subject = params["expected_subject"]
    now = int(time.time())
    return {
        "valid": True,
        "reason": "",
        "issuer": DID,
        "subject": subject,
        "npub": subject.removeprefix("did:nostr:"),
        "valid_until": now + 86_400,
        "revocation": {"status": "good", "checked_at": now},
        **script.get("answer", {}),
    }


async def announce(params):
    app.notify("hive_credential_revoked", params)
    return {}


async def nothing(*_):
    return None


app = PluginApp(
    name="cl-hive-archon",
    version="0.1.0",
    options=[],
    methods=[
        hello_spec("archon", hello),
        MethodSpec(
            "hive-archon-verify-credential",
            "S",
            (
                Param("credential", "json", required=True),
                Param("expected_subject", "str", required=True),
                Param("schema", "str", required=True),
                Param("action", "str", required=True),
            ),
            verify,
            "Scripted.",
        ),
        MethodSpec("scripted-announce", "A", (Param("credential_id", "str"),), announce, "Scripted."),
    ],
    subscriptions={},
    notifications=["hive_credential_revoked"],
    on_init=start,
    on_setconfig=nothing,
    on_stop=nothing,
)

if __name__ == "__main__":
    app.run()
