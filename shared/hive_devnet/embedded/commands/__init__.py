"""The RPC commands of the embedded node, one module per family. Importing the package registers them."""

from hive_devnet.embedded.commands import (  # noqa: F401
    backup,
    bookkeeper,
    channels,
    close,
    commando,
    config,
    datastore,
    info,
    invoices,
    network,
    onchain,
    pay,
    peers,
    plugins,
    prepared,
    reservations,
    runes,
    secrets,
    setchannel,
    wallet,
)
