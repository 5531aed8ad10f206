"""Who is meant by a name (docs/protocol/08-client-and-plugins.md §6 "Identity", Lookup).

Order: local alias, index of a search result, name in the advisor's profile, `advisor-N`; keys and DIDs
pass as they are. Renames of profiles never move a local alias.
"""

import re
from typing import Protocol

from hive_shared.errors import Ambiguous, Capacity, Conflict, InvalidParams, NotFound
from hive_shared.nostr.keys import npub_encode, parse_pubkey
from hive_shared.store import Db, Tx

from cl_hive_comms.domain import names
from cl_hive_comms.domain.advisor import Advisor, Alias
from cl_hive_comms.services.credential_service import CredentialService
from cl_hive_comms.services.ports_advisors import AdvisorRows
from cl_hive_comms.services.ports_identity import Clock

_NEARLY_KEY = re.compile(r"[0-9a-fA-F]{50,}")
_KEY_FORM = re.compile(r"(npub1|did:|nostr:)\S+|[0-9a-fA-F]{64}")


class Search(Protocol):
    """Results of the search for advisors (services.discovery_service)."""

    def key_at(self, index: str, result_id: str = "") -> str: ...
    def name_of(self, pubkey: str) -> str: ...


class AliasService:
    """Local names of advisors: at most ten each, unique whatever the case."""

    def __init__(self, db: Db, store: AdvisorRows, credentials: CredentialService, *, now: Clock) -> None:
        self._db, self._store, self._credentials, self._now = db, store, credentials, now
        self._aliases: dict[str, Alias] = {}
        self.search: Search | None = None
        """The search for advisors, whose results are named by index."""

    async def load(self) -> None:
        """Reads the names; call once at start and after every change."""
        rows = await self._db.read(self._store.aliases)
        self._aliases = {names.key_of(alias.alias): alias for alias in rows}

    # -- lookup --------------------------------------------------------------------------------------

    def resolve(self, text: str) -> Advisor:
        """The advisor that `text` means. Raises NotFound, or Ambiguous with the candidates."""
        found = self.find(text)
        if found is not None:
            return found
        if names.is_index(text):
            npub = npub_encode(self.found_at(text)[0])
            raise NotFound(
                f"index {text.strip()} is {npub}, whom you have not hired; hive-client-authorize does that"
            )
        if self.is_key(text):
            raise NotFound(
                f"no advisor has the key {text.strip()[:80]!a}; hive-client-authorize makes one of its owner"
            )
        alike = names.look_alikes(text, self.all_names())
        if alike:
            hint = f"did you mean {', '.join(alike)}?"
        elif _NEARLY_KEY.fullmatch(text.strip()):
            hint = f"a key has 64 hex characters, this text has {len(text.strip())}"
        else:
            hint = "somebody new is named by key: npub1..."
        raise NotFound(f"no advisor is called {text[:80]!a}; {hint}")

    def find(self, text: str) -> Advisor | None:
        """As `resolve`, but None for nobody; raises Ambiguous, or InvalidParams for a broken key."""
        names.refuse_secret(text)
        wanted = text.strip()
        if _KEY_FORM.fullmatch(wanted):
            return self._by_key(wanted)
        key = names.key_of(wanted)
        if (alias := self._aliases.get(key)) is not None:
            return self._credentials.advisor(alias.target)
        # Before the names of profiles, which strangers choose: none of them can stand for another's number.
        for each in self._credentials.advisors():
            if key in (f"advisor-{each.number}", each.advisor_id):
                return each
        if names.is_index(wanted):
            return self._by_index(wanted)
        same = [each for each in self._credentials.advisors() if names.key_of(each.display_name) == key]
        if len(same) > 1:
            own = [f"advisor-{each.number}" for each in same]
            raise Ambiguous(
                f"{wanted[:80]!a} is the name of {len(same)} advisors: {', '.join(own)}; use one of these, an"
                " alias of your own, or the key",
                data={"candidates": list(own)},
            )
        return same[0] if same else None

    def _by_index(self, index: str) -> Advisor | None:
        try:
            pubkey, _ = self.found_at(index)
        except NotFound:
            return None
        return self._by_key(f"did:nostr:{pubkey}")

    def found_at(self, index: str, result_id: str = "") -> tuple[str, str]:
        """Key and name of the advisor at an index of a search result, of the last one unless it is named.

        Raises NotFound, reason `stale_index`.
        """
        if self.search is None:
            raise NotFound(
                f"index {index.strip()} belongs to no search result of the last hour; give a name or a key",
                reason="stale_index",
            )
        pubkey = self.search.key_at(index, result_id)
        return pubkey, self.search.name_of(pubkey)

    def is_key(self, text: str) -> bool:
        """Whether `text` has the form of a key or DID rather than of a name."""
        return _KEY_FORM.fullmatch(text.strip()) is not None

    def name_of(self, advisor: Advisor) -> str:
        """What people see: the first local alias, else the profile's name."""
        own = self.aliases_of(advisor.advisor_id)
        return own[0].alias if own else advisor.display_name

    def aliases_of(self, advisor_id: str) -> list[Alias]:
        """Local names of one advisor, oldest first."""
        return [alias for alias in self._aliases.values() if alias.target == advisor_id]

    def list_all(self) -> list[Alias]:
        """All local names in alphabetical order."""
        return sorted(self._aliases.values(), key=lambda alias: alias.key)

    def all_names(self) -> list[str]:
        """Every name somebody could mean."""
        shown = [alias.alias for alias in self._aliases.values()]
        return shown + [advisor.display_name for advisor in self._credentials.advisors()]

    def warnings(self, name: str, advisor_id: str | None = None) -> list[str]:
        """Sentences about names of others that are easily taken for this one."""
        profiles = [
            each.display_name for each in self._credentials.advisors() if each.advisor_id != advisor_id
        ]
        others = [alias.alias for alias in self._aliases.values() if alias.target != advisor_id] + profiles
        found = [
            f"{name!a} looks like {other!a}; check that you mean the right one"
            for other in names.look_alikes(name, others)
        ]
        if names.key_of(name) in map(names.key_of, profiles):
            found.append(f"{name!a} is also what another advisor calls itself; here it means yours")
        if scripts := names.mixed_scripts(name):
            found.append(f"{name!a} mixes {' and '.join(scripts)} letters; check that you mean the right one")
        return found

    # -- changes -------------------------------------------------------------------------------------

    async def set(self, name: str, target: str) -> tuple[Alias, list[str]]:
        """Gives an advisor a name. Raises Conflict when it is taken, Capacity beyond ten, NotFound."""
        advisor = self.resolve(target)
        alias = await self._db.write(lambda tx: self.put(tx, name, advisor.advisor_id))
        await self.load()
        return alias, self.warnings(alias.alias, advisor.advisor_id)

    def usable(self, name: str) -> str:
        """The name in its stored form, as somebody new could have it. Raises InvalidParams, Conflict."""
        text = names.clean(name)
        if names.key_of(text) in self._aliases:
            raise Conflict(f"{text!a} is already the name of another advisor; remove it there first")
        return text

    def free_name(self, name: str) -> str:
        """The name where somebody new could have it and nothing here looks like it; empty otherwise."""
        try:
            text = names.clean(name)
        except InvalidParams:
            return ""
        others = set(map(names.drawn_form, self.all_names()))
        return "" if names.drawn_form(text) in others else text

    def put(self, tx: Tx, name: str, advisor_id: str) -> Alias:
        """As `set`, inside the caller's transaction; the caller loads afterwards."""
        text = names.clean(name)
        alias = Alias(names.key_of(text), text, advisor_id, self._now())
        # As stored, not as loaded: another name may have been given since.
        stored = {names.key_of(each.alias): each for each in self._store.aliases(tx)}
        taken = stored.get(alias.key)
        if taken is not None and taken.target != advisor_id:
            raise Conflict(f"{text!a} is already the name of another advisor; remove it there first")
        own = sum(each.target == advisor_id for each in stored.values())
        if taken is None and own >= names.MAX_PER_ADVISOR:
            raise Capacity(f"an advisor has at most {names.MAX_PER_ADVISOR} names; remove one first")
        self._store.put_alias(tx, alias)
        return alias

    async def remove(self, name: str) -> Alias:
        """Removes a local name. Raises NotFound."""
        names.refuse_secret(name)
        alias = self._aliases.get(names.key_of(name))
        if alias is None:
            raise NotFound(f"there is no alias {name[:80]!a}")
        await self._db.write(lambda tx: self._store.remove_alias(tx, alias.key))
        await self.load()
        return alias

    # -- inside --------------------------------------------------------------------------------------

    def _by_key(self, text: str) -> Advisor | None:
        if text.startswith("did:") and not text.startswith("did:nostr:"):
            return next((each for each in self._credentials.advisors() if each.did == text), None)
        try:
            pubkey = parse_pubkey(text)
        except ValueError as error:
            raise InvalidParams(str(error)) from None
        return next((each for each in self._credentials.advisors() if each.pubkey == pubkey), None)
