-- What is paid to an offer of this node is found by the offer (docs/protocol/03 §7.4).
CREATE INDEX comms_payments_offer ON comms_payments (offer_id) WHERE offer_id IS NOT NULL;
