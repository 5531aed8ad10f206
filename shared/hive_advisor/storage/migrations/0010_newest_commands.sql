-- The newest commands of all clients without sorting every one.
CREATE INDEX adv_commands_newest ON adv_commands (created, nonce);
