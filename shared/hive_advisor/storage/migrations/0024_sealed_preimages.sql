-- The preimage of an answer is kept apart from it and sealed: it is worth the ecash it opens.
ALTER TABLE adv_commands ADD COLUMN preimage_enc BLOB;
