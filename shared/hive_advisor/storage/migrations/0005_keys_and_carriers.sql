-- Commando as a way to a client, sealed as it may hold a rune (docs/protocol/11-advisor-kit.md §4).
ALTER TABLE adv_routes ADD COLUMN commando_enc BLOB;

-- The key of ours that was asked to approve; its vote counts (§2 Rotation). '' is the first key there was.
ALTER TABLE adv_approvals ADD COLUMN agent_key TEXT NOT NULL DEFAULT '';
