"""The part of the kit that is paid and pays by Lightning (docs/protocol/11-advisor-kit.md §8).

Composed here, used by `advisor.Advisor`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Any, Final

import msgspec
from hive_shared.crypto import Sealer
from hive_shared.errors import HiveError, InvalidParams, NotFound, TransportUnavailable
from hive_shared.invoice_messages import INVOICE_REQUEST
from hive_shared.public_web import PublicWeb
from hive_shared.row_by_row import RowByRow
from hive_shared.store import Db, Tx
from hive_shared.web_address import host_of
from msgspec.structs import asdict, replace

from hive_advisor.config import AdvisorConfig
from hive_advisor.domain import lnaddress, nwc
from hive_advisor.domain.earning import rate_sats
from hive_advisor.domain.fee import BOLT11
from hive_advisor.domain.plan import Plan
from hive_advisor.domain.plan_check import least_danger
from hive_advisor.domain.rows import StoredCommand
from hive_advisor.ecash import Ecash
from hive_advisor.nodes import check_named, load_nodes
from hive_advisor.paths import ProfilePaths
from hive_advisor.payments.cln import OwnNodeMoney
from hive_advisor.payments.ecash import EcashMoney
from hive_advisor.payments.lnaddress import LnAddressIn
from hive_advisor.payments.nwc import NwcWallet, Silence
from hive_advisor.services.earnings import CASHU, EarningService
from hive_advisor.services.monthly_fees import MonthlyFees
from hive_advisor.services.ports import ClientRows, CommandRows, OwnNodeCalls, RecordRows
from hive_advisor.services.ports_money import WayIn, WayOut, Web
from hive_advisor.services.signed_mail import SignedMail
from hive_advisor.services.spending import PaidFees, SpendService
from hive_advisor.services.tickets import ESCROW
from hive_advisor.services.token_income import TokenIncome
from hive_advisor.storage.engagement_store import EngagementStore
from hive_advisor.storage.invoice_store import InvoiceStore
from hive_advisor.storage.outgoing_store import OutgoingStore, WayStore
from hive_advisor.storage.token_store import TokenStore
from hive_advisor.transport.own_node import OwnNodes

NWC: Final = "nwc"
_SILENT: Final = "nwc_silent"


class Rows(msgspec.Struct, frozen=True):
    """The stores that money reads beside its own."""

    commands: CommandRows
    clients: ClientRows
    records: RecordRows
    fees: PaidFees
    ecash: Ecash


class Money:
    """Ways in and out, what is owed to us and what we pay. Ways are made when they are first needed."""

    def __init__(
        self,
        db: Db,
        sealer: Sealer,
        paths: ProfilePaths,
        config: AdvisorConfig,
        rows: Rows,
        mail: SignedMail,
        *,
        halted: Callable[[], bool],
        retried: Callable[[Tx, StoredCommand], bool],
        now: Callable[[], int],
        rng: Callable[[int], bytes],
        new_id: Callable[[], str],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        alone: RowByRow,
    ) -> None:
        self._alone = alone
        self._db, self._paths, self._config, self._now, self._rng = db, paths, config, now, rng
        self._spawn = spawn
        self._ways, self._invoices, self._outgoing = WayStore(sealer), InvoiceStore(), OutgoingStore()
        self._wallet: NwcWallet | None = None
        self._meta = rows.clients
        self._nodes: OwnNodeCalls | None = None
        self._web: Web = PublicWeb(config.proxy)
        self.earnings = EarningService(
            db,
            self._invoices,
            rows.commands,
            rows.clients,
            rows.records,
            mail,
            MonthlyFees(EngagementStore(), rows.clients, self._invoices, now),
            self.way_in,
            retried,
            now=now,
            new_id=new_id,
            spawn=spawn,
            alone=alone,
        )
        self.spending = SpendService(
            db,
            self._outgoing,
            rows.fees,
            rows.commands,
            rows.clients,
            rows.records,
            self.way_out,
            daily_sats=config.spend.daily_sats,
            halted=halted,
            now=now,
            alone=alone,
        )
        self._ecash, tokens = rows.ecash, TokenStore(sealer)
        self.tokens = self._ecash_income(rows, tokens)
        self.earnings.on_token = self.tokens.sent
        self.debts, self.kept_of_clients = self._invoices, (self._invoices, self.spending, tokens)
        mail.handle(INVOICE_REQUEST, self.earnings.requested)

    def _ecash_income(self, rows: Rows, tokens: TokenStore) -> TokenIncome:
        return TokenIncome(
            self._db,
            tokens,
            rows.commands,
            rows.records,
            self.earnings,
            rows.ecash.service,
            rows.ecash.keys,
            ready=rows.ecash.ready,
            now=self._now,
            spawn=self._spawn,
            alone=self._alone,
        )

    async def tick(self) -> None:
        """What is done in every round."""
        await self._alone.steps("money", ("spent", self.spending.tick), ("earned", self.earnings.tick))
        # A mint that is slow holds nothing else up.
        self._spawn(self.tokens.tick())

    async def close(self) -> None:
        """Close what is open."""
        if self._wallet is not None:
            await self._wallet.close()

    async def claim(self, plan: Plan, quoted: dict[str, Any], command_id: str, pasted: str = "") -> Plan:
        """The plan with what the node is to pay for it once it succeeded (11 §15.11): an invoice of the way
        in, or `pasted`, or ecash, whichever the node names first and we can take. `quoted` is the node's
        word on the plan (`Advisor.quote`); the command has to be sent under `command_id`.

        Raises TransportUnavailable (no quote), InvalidParams (it pays nothing for it, or not so, or less than
        its credential agrees on), and what making an invoice raises.
        """
        said = quoted.get("result")
        if not isinstance(said, dict):
            told = quoted.get("message") or quoted.get("state")
            raise TransportUnavailable(f"the node did not say what it pays: {told}")
        amount, methods = said.get("price_sats"), said.get("methods")
        if said.get("direction") != "compensation" or not isinstance(amount, int) or amount < 1:
            raise InvalidParams("the node pays nothing for this command: leave --pay out", reason="not_paid")
        agreed = rate_sats(plan.credential.document, least_danger(plan.spec, plan.params).total)
        if amount < agreed:
            raise InvalidParams(
                f"the node offers {amount} sat for this command, its credential agrees on {agreed} sat:"
                " nothing was sent",
                reason="amount_mismatch",
            )
        offered = [str(name)[:20] for name in methods] if isinstance(methods, list) else []
        ours = [CASHU] if self._ecash.named and not pasted else []
        if pasted or CASHU not in offered or not ours or await self.way_in(None) is not None:
            ours.append(BOLT11)
        method = next((name for name in offered if name in ours), None)
        if method is None:
            by_ticket = (
                ": its operator makes a ticket for it, which then goes along by itself (leave --pay out)"
                if ESCROW in offered
                else ""
            )
            raise InvalidParams(
                f"the node pays for this command by {', '.join(offered) or 'no way it offers'}, not by"
                f" {' or '.join(sorted(ours))}{by_ticket}",
                reason="no_common_method",
            )
        if method == CASHU:
            await self.earnings.claimed(plan.client, command_id, amount)
            return replace(plan, payment={"method": CASHU})
        earning = await self.earnings.order(plan.client, command_id, amount, pasted)
        return replace(plan, payment={"method": BOLT11, "invoice": earning.invoice})

    # -- ways --------------------------------------------------------------------------------------------

    async def way_in(self, name: str | None) -> WayIn | None:
        """The way in of the configuration, or the named one as far as it is still set up. Raises
        InvalidParams, NotFound for one that is set up wrongly."""
        receive = self._config.receive
        wanted = name or receive.method
        if wanted == "cln" and receive.cln:
            return self._own_node(receive.cln)
        if wanted == "lnaddress" and receive.lnaddress:
            trusted = await self._db.read(self._ways.trusted_hosts)
            return LnAddressIn(receive.lnaddress, self._web, trusted)
        return await self._nwc(needed=name is None) if wanted == NWC else None

    async def way_out(self, name: str | None) -> WayOut | None:
        """The way out of the configuration, or the named one as far as it is still set up. Raises
        InvalidParams, NotFound for one that is set up wrongly."""
        spend, wanted = self._config.spend, name or self._config.spend.method
        if wanted == "cln" and (node := spend.cln or self._config.receive.cln):
            return self._own_node(node)
        if wanted == CASHU:
            if name is None and not self._ecash.named:
                raise InvalidParams(
                    "spend.method cashu needs a mint to pay from: 'hive-advisor wallet mint add URL'",
                    reason="no_way_out",
                )
            return EcashMoney(self._ecash, self._now)
        return await self._nwc(needed=name is None) if wanted == NWC else None

    def _own_node(self, node: str) -> OwnNodeMoney:
        if self._nodes is None:
            nodes = load_nodes(self._paths.nodes)
            check_named(nodes, node)
            self._nodes = OwnNodes(nodes)
        return OwnNodeMoney(node, self._nodes, self._now)

    async def _nwc(self, *, needed: bool) -> NwcWallet | None:
        if self._wallet is None:
            uri = await self._db.read(lambda tx: self._ways.secret(tx, NWC))
            if uri is None:
                if needed:
                    raise NotFound(
                        "no wallet connection is kept: 'hive-advisor pay methods --nwc FILE' keeps one",
                        reason="no_wallet",
                    )
                return None
            self._wallet = NwcWallet(
                nwc.parse_uri(uri),
                heard=self._heard,
                now=self._now,
                rng=self._rng,
                proxy=self._config.proxy,
                silence=await self._silence(),
                silent=self._keep_silence,
            )
        return self._wallet

    async def _silence(self) -> Silence:
        kept = await self._db.read(lambda tx: self._meta.meta(tx, _SILENT))
        return Silence(**json.loads(kept)) if kept else Silence()

    async def _keep_silence(self, silence: Silence) -> None:
        text = json.dumps(asdict(silence))
        await self._db.write(lambda tx: self._meta.set_meta(tx, _SILENT, text))

    async def silent(self) -> list[dict[str, Any]]:
        """Wallets that did not answer and are not asked for a while."""
        silence = await self._silence()
        if silence.until <= self._now():
            return []
        return [{"way": NWC, "why": silence.why, "asked_again": silence.until, "times": silence.times}]

    def _heard(self, payment_hash: str) -> None:
        self._spawn(self.earnings.received(payment_hash))

    async def keep_wallet(self, uri: str | None) -> str | None:
        """Keep a wallet connection, sealed, or forget it (None); the wallet's key. Raises InvalidParams."""
        connection = None if uri is None else nwc.parse_uri(uri)
        if connection is None or uri is None:
            await self._db.write(lambda tx: self._ways.drop(tx, NWC))
        else:
            await self._db.write(lambda tx: self._ways.keep_secret(tx, NWC, uri.strip(), self._now()))
        if self._wallet is not None:
            await self._wallet.close()
            self._wallet = None
        await self._keep_silence(Silence())
        return None if connection is None else connection.wallet

    async def trust_host(self, host: str) -> str:
        """A human says that a host may stand behind the Lightning address. Raises InvalidParams."""
        if not lnaddress.is_host(host.lower()):
            raise InvalidParams(f"{host[:80]!a} is no host name; give it as the refusal named it")
        checked = host_of(lnaddress.checked_url(f"https://{host}/", f"host {host[:80]!a}"))
        if checked != host.lower():
            raise InvalidParams(f"{host[:80]!a} is no host name; give it as the refusal named it")
        await self._db.write(lambda tx: self._ways.trust_host(tx, checked, self._now()))
        return checked

    async def methods(self, *, check: bool) -> dict[str, Any]:
        """How we are paid and pay, and what follows for the profile; with `check` the wallets are asked."""
        receive, spend = self._config.receive, self._config.spend
        ways: dict[str, Any] = {"in": receive.method, "out": spend.method, "daily_sats": spend.daily_sats}
        ways["methods"] = ["bolt11"] if receive.method != "none" else []
        ways["methods"] += ["cashu"] if self._config.mints else []
        kept = await self._db.read(lambda tx: self._ways.secret(tx, NWC))
        if kept is not None:
            ways["wallet"] = nwc.parse_uri(kept).wallet
        if receive.lnaddress:
            ways["lnaddress"] = receive.lnaddress
            ways["trusted_hosts"] = list(await self._db.read(self._ways.trusted_hosts))
        return {**ways, "checks": await self.checks()} if check else ways

    async def checks(self) -> list[dict[str, str]]:
        """Whether the configured ways are set up and answer: {id, status, detail} rows."""
        rows = []
        for what, method, needed in (
            ("way in", self._config.receive.method, (nwc.MAKE, nwc.LOOKUP)),
            ("way out", self._config.spend.method, (nwc.PAY, nwc.LOOKUP)),
        ):
            if method in ("none", "manual"):
                continue
            try:
                way = await (self.way_in(None) if what == "way in" else self.way_out(None))
                if isinstance(way, NwcWallet):
                    await way.check(needed)
                elif isinstance(way, OwnNodeMoney | LnAddressIn | EcashMoney):
                    await way.check()
            except HiveError as error:
                rows.append({"id": what, "status": "fail", "detail": f"{method}: {error.detail}"})
            else:
                rows.append({"id": what, "status": "ok", "detail": f"{method} answers"})
        return rows

    async def offer(self) -> str:
        """A bolt12 offer of our own node for the profile. Raises InvalidParams without one, PaymentFailed."""
        way = await self.way_in("cln")
        if not isinstance(way, OwnNodeMoney):
            raise InvalidParams("offers are made by an own node: set receive.cln in config.toml")
        return await way.offer("hive-advisor")
