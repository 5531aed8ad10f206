"""The RPC commands of the embedded node, one module per family. Importing the package registers them."""

from hive_devnet.embedded.commands import (  # noqa: F401
    channels,
    config,
    datastore,
    info,
    invoices,
    network,
    pay,
    peers,
    plugins,
    runes,
    secrets,
    setchannel,
    wallet,
)
