"""Pure rules of the kit: command states, checking of answers and offers, cleaning of remote text."""
