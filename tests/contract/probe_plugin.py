#!/usr/bin/env python3
"""A scripted CLN plugin for tests; its script is the JSON file of its own name plus `.json`.

Script members: manifest (replaces parts of the getmanifest result), init (the init result), answers
(method -> result, or {"__error__": {...}}, or {"__exit__": code}, or {"__hold__": true}), emit
(method -> list of notifications to send before answering), quiet_stop (ignore `shutdown`).
"""

import json
import sys
import time
from pathlib import Path

HERE = Path(sys.argv[0])
SCRIPT = HERE.with_name(HERE.name + ".json")
RECORD = HERE.with_name(HERE.name + ".jsonl")


def send(message):
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n\n")
    sys.stdout.flush()


def record(message):
    with RECORD.open("a") as file:
        file.write(json.dumps({**message, "__time__": time.time()}) + "\n")


def manifest(script):
    declared = {"options": [], "rpcmethods": [], "subscriptions": [], "hooks": [], "dynamic": True}
    return {**declared, **script.get("manifest", {})}


def answer(message, script):
    method = message["method"]
    if method == "getmanifest":
        return {"result": manifest(script)}
    if method == "init":
        return {"result": script.get("init", {})}
    reply = script.get("answers", {}).get(method, {"result": "continue"})
    if isinstance(reply, dict) and "__exit__" in reply:
        sys.exit(reply["__exit__"])
    if isinstance(reply, dict) and "__error__" in reply:
        return {"error": reply["__error__"]}
    if isinstance(reply, dict) and "__hold__" in reply:
        return None
    return {"result": reply}


def handle(message):
    record(message)
    script = json.loads(SCRIPT.read_text())
    for note in script.get("emit", {}).get(message.get("method"), ()):
        send(json.loads(json.dumps(note).replace('"__id__"', json.dumps(message.get("id")))))
    if "id" not in message:
        if message["method"] == "shutdown" and not script.get("quiet_stop"):
            sys.exit(0)
        return
    reply = answer(message, script)
    if reply is not None:
        send({"id": message["id"], **reply})


def main():
    decoder = json.JSONDecoder()
    buffer = ""
    while True:
        line = sys.stdin.readline()
        if not line:
            return
        buffer += line
        text = buffer.strip()
        if not text:
            continue
        try:
            message, end = decoder.raw_decode(text)
        except ValueError:
            continue
        buffer = text[end:]
        handle(message)


if __name__ == "__main__":
    main()
