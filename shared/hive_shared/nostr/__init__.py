"""Nostr for the plugins and the advisor kit (Protocol 04 §6, §7).

Keys, events, encryption, gift wraps and relays are imported one by one (`from hive_shared.nostr import
event`), so that a caller which only shows an npub does not pay for sockets and ciphers.
"""
