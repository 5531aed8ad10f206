"""The kit's database: tables ``adv_*`` (docs/protocol/11-advisor-kit.md §12). All SQL of the kit is here."""
