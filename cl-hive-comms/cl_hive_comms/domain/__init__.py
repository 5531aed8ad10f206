"""Pure rules and data of cl-hive-comms: no I/O, no clock, no randomness, no globals that change."""
