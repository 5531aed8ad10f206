"""What each step of a setup session asks, and how an answer to it is read
(docs/protocol/08-client-and-plugins.md §7 "Setup"). Nothing here changes anything.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from hive_shared.credential_scope import resolve_access
from hive_shared.errors import Capacity, Conflict, InvalidParams
from hive_shared.nostr.keys import npub_encode
from msgspec.structs import replace

from cl_hive_comms.domain import setup
from cl_hive_comms.domain.setup import (
    AGAIN,
    CONFIRM,
    CONTINUE,
    DM,
    HIRE_DAYS,
    KEEP,
    LIMITS,
    NEEDS,
    NONE,
    OFF,
    PRESETS,
    SKIP,
    WEBHOOK,
    Answers,
    Candidate,
    Step,
)
from cl_hive_comms.domain.trial import DEFAULT_DAYS, MAX_DAYS, MIN_DAYS, trial_days
from cl_hive_comms.services.advisor_requests import Hire
from cl_hive_comms.services.advisor_service import AdvisorService
from cl_hive_comms.services.alias_service import AliasService
from cl_hive_comms.services.policy_service import PolicyService
from cl_hive_comms.services.ports_setup import Choice, NodeOptions, Question, SelfCheck


class SetupQuestions:
    """Asks and reads; the session itself is services.setup_service."""

    def __init__(
        self,
        *,
        policy: PolicyService,
        advisors: AdvisorService,
        aliases: AliasService,
        options: NodeOptions,
        selfcheck: Callable[[], SelfCheck],
    ) -> None:
        self._policy, self._advisors, self._aliases = policy, advisors, aliases
        self._options, self._selfcheck = options, selfcheck
        self._asks: Mapping[Step, Callable[[Answers], Awaitable[Question]]] = {
            Step.SELFCHECK: self._ask_selfcheck,
            Step.NEED: self._ask_need,
            Step.PRESET: self._ask_preset,
            Step.LIMITS: self._ask_limits,
            Step.PAYMENT: self._ask_payment,
            Step.ALERTS: self._ask_alerts,
            Step.ADVISOR: self._ask_advisor,
            Step.TRIAL: self._ask_trial,
            Step.CONFIRM: self._ask_confirm,
        }
        self._reads: Mapping[Step, Callable[[Answers, str], Awaitable[Answers]]] = {
            Step.NEED: self._read_need,
            Step.PRESET: self._read_preset,
            Step.LIMITS: self._read_limits,
            Step.PAYMENT: self._read_payment,
            Step.ALERTS: self._read_alerts,
            Step.ADVISOR: self._read_advisor,
            Step.TRIAL: self._read_trial,
        }

    async def ask(self, step: Step, answers: Answers) -> Question:
        """What the step asks, given what was answered before."""
        return await self._asks[step](answers)

    async def read(self, step: Step, answers: Answers, text: str) -> Answers:
        """The answers with this one added. Raises InvalidParams, NotFound, Ambiguous, Conflict, Capacity,
        Unsupported, SiblingUnavailable; the question then stays open."""
        return await self._reads[step](answers, text)

    # -- self-check and need -------------------------------------------------------------------------

    async def _ask_selfcheck(self, answers: Answers) -> Question:
        result = await self._selfcheck().run()
        found = [check for check in result["checks"] if check["status"] != "ok"]
        failed = sum(check["status"] == "fail" for check in found)
        if not found:
            prompt = f"All {len(result['checks'])} checks of this node are well."
        else:
            prompt = (
                f"{len(found)} of {len(result['checks'])} checks of this node want a look, {failed} of them"
                f" {'fails' if failed == 1 else 'fail'}; each finding says what helps."
            )
        return Question(
            f"{prompt} Nothing is changed or granted before the last step.",
            (Choice(CONTINUE, "go on with the setup"), Choice(AGAIN, "check once more")),
            {"findings": found},
        )

    async def _ask_need(self, answers: Answers) -> Question:
        return Question("What should an advisor do for this node?", _words(NEEDS))

    async def _read_need(self, answers: Answers, text: str) -> Answers:
        return replace(answers, need=setup.one_of(Step.NEED, text, NEEDS))

    # -- policy ----------------------------------------------------------------------------------------

    async def _ask_preset(self, answers: Answers) -> Question:
        present = self._policy.snapshot().preset
        try:
            self._policy.refuse_when_fixed()
        except Conflict as fixed:
            return Question(f"The policy stays as it is: {fixed.detail}.", (_keep(present),))
        return Question(
            f"How much may run without you? Now it is {present}. Keys you set yourself stay.",
            (*_words(PRESETS), _keep(present)),
        )

    async def _read_preset(self, answers: Answers, text: str) -> Answers:
        word = setup.one_of(Step.PRESET, text, {**PRESETS, KEEP: ""})
        if word == KEEP:
            return replace(answers, preset=None)
        self._policy.refuse_when_fixed()
        self._policy.would_be(word, {})
        return replace(answers, preset=word)

    async def _ask_limits(self, answers: Answers) -> Question:
        try:
            self._policy.refuse_when_fixed()
        except Conflict as fixed:
            return Question(f"The limits stay as they are: {fixed.detail}.", (_keep("the limits"),))
        settings = self._policy.would_be(answers.preset, {}).settings
        values = {name: getattr(settings, name) for name in LIMITS}
        example = "max_fee_change_per_24h_pct=20,max_fee_ppm=2500"
        return Question(
            "Limits that hold whoever asks. Shown is what applies with the answers so far; name the ones you"
            " want otherwise.",
            (_keep("these limits"), Choice("<name=number,...>", "set these limits", example)),
            {"limits": [{"name": n, "value": values[n], "means": text} for n, text in LIMITS.items()]},
        )

    async def _read_limits(self, answers: Answers, text: str) -> Answers:
        limits = setup.limits_of(text)
        if limits:
            self._policy.refuse_when_fixed()
            self._policy.would_be(answers.preset, limits)
        return replace(answers, limits=limits)

    # -- payment and alerts ----------------------------------------------------------------------------

    async def _ask_payment(self, answers: Answers) -> Question:
        return Question(
            "How is an advisor paid? This version pays nobody and keeps no money at a mint: a fee is agreed"
            " and paid by yourself.",
            (Choice(NONE, "the node pays nothing"),),
        )

    async def _read_payment(self, answers: Answers, text: str) -> Answers:
        setup.no_payment(text)
        return answers

    async def _ask_alerts(self, answers: Answers) -> Question:
        dm, webhook = self._options.current(DM), self._options.current(WEBHOOK)
        now = {
            "messages": npub_encode(dm) if dm else None,
            "webhook": setup.address_shown(webhook) if webhook else None,
        }
        return Question(
            "Where do alerts go, besides the node's log and hive-client-alerts? A key gets warnings and worse"
            " as direct messages, a web address also notices. Mail is set by the options"
            " hive-comms-alert-email and hive-comms-alert-smtp.",
            (
                _keep("what is set now"),
                Choice("<npub>", "messages to this key", "npub1..."),
                Choice("<https address>", "signed posts to this address", "https://example.com/path"),
                Choice("<npub> <https address>", "both", "npub1... https://example.com/path"),
                Choice(OFF, "neither; what is set is removed"),
            ),
            {"now": now},
        )

    async def _read_alerts(self, answers: Answers, text: str) -> Answers:
        dm, webhook = setup.alert_targets(text)
        try:
            dm = dm and self._options.read(DM, dm)
            webhook = webhook and self._options.read(WEBHOOK, webhook)
        except ValueError as error:
            raise InvalidParams(f"{error}; or answer {KEEP} or {OFF}") from None
        return replace(answers, alert_dm=dm, alert_webhook=webhook)

    # -- advisor and trial -----------------------------------------------------------------------------

    async def _ask_advisor(self, answers: Answers) -> Question:
        return Question(
            "Whom do you want to authorize? An advisor sends you their npub; this version does not search the"
            " market. Behind the key a name of your own may stand.",
            (
                Choice("<npub>", "somebody new or known, by key", "npub1..."),
                Choice("<npub> <name>", "and your name for them", "npub1... fee doctor"),
                Choice("<name>", "somebody this node knows", "fee doctor"),
                Choice(SKIP, "nobody now"),
            ),
            {"need": answers.need},
        )

    async def _read_advisor(self, answers: Answers, text: str) -> Answers:
        if setup.word_of(text) == SKIP:
            return replace(answers, advisor=None, trial_days=0)
        first, _, rest = text.partition(" ")
        hire = Hire(rest.strip(), npub=first) if _key_like(first) else Hire(text)
        pubkey, known, new_name = self._advisors.whom(hire)
        shown = new_name or (npub_encode(pubkey) if known is None else self._aliases.name_of(known))
        return replace(answers, advisor=Candidate(pubkey, shown, new_name), trial_days=0)

    async def _ask_trial(self, answers: Answers) -> Question:
        who = _candidate(answers)
        plain = Choice("no", f"an ordinary hire of {HIRE_DAYS} days with access={answers.need}")
        facts = {"revoke": f"lightning-cli -k hive-client-revoke advisor={npub_encode(who.pubkey)}"}
        try:
            await self._refuse_trial(answers)
        except (Conflict, Capacity, InvalidParams) as error:
            return Question(f"No trial can begin now: {error.detail}.", (plain,), self._facts(who, facts))
        reach = "read the node" if answers.need == "monitoring" else "read the node and set fees"
        return Question(
            f"Begin with a trial of {DEFAULT_DAYS} days? In it {who.shown!a} may {reach}, whatever you want"
            " later. Price: 0 sats, this version pays nobody. It ends by itself and is not extended without"
            " you; revoking ends it at once.",
            (
                Choice("yes", f"a trial of {DEFAULT_DAYS} days"),
                Choice(f"<{MIN_DAYS}..{MAX_DAYS}>", "a trial of that many days", str(MIN_DAYS)),
                plain,
            ),
            self._facts(who, facts),
        )

    async def _read_trial(self, answers: Answers, text: str) -> Answers:
        days = trial_days(setup.word_of(text))
        if days:
            await self._refuse_trial(answers)
        return replace(answers, trial_days=days)

    async def _refuse_trial(self, answers: Answers) -> None:
        who = _candidate(answers)
        known = self._aliases.find(f"did:nostr:{who.pubkey}")
        await self._advisors.refuse_trial(resolve_access(answers.need), who.pubkey, known)

    def _facts(self, who: Candidate, facts: Mapping[str, Any]) -> Mapping[str, Any]:
        known = self._aliases.find(f"did:nostr:{who.pubkey}")
        alike = self._aliases.warnings(who.shown, None if known is None else known.advisor_id)
        return {**facts, "warning_look_alike": "; ".join(alike)} if alike else facts

    # -- the end ---------------------------------------------------------------------------------------

    async def _ask_confirm(self, answers: Answers) -> Question:
        will = [*self._policy_lines(answers), *self._alert_lines(answers), *self._advisor_lines(answers)]
        facts: Mapping[str, Any] = {"will": will}
        if answers.advisor is not None:
            facts = self._facts(answers.advisor, facts)
        return Question(
            "This is all that will be done, together or not at all."
            if will
            else "Nothing is to be changed: every answer keeps what there is.",
            (Choice(CONFIRM, "do it" if will else "end the setup"),),
            facts,
        )

    def _policy_lines(self, answers: Answers) -> list[str]:
        lines = []
        if answers.preset is not None:
            lines.append(f"policy: preset {answers.preset} (now {self._policy.snapshot().preset})")
        return lines + [f"policy: {name} {value}" for name, value in answers.limits.items()]

    def _alert_lines(self, answers: Answers) -> list[str]:
        lines = []
        if answers.alert_dm is not None:
            lines.append(
                f"alerts: messages to {npub_encode(answers.alert_dm) if answers.alert_dm else 'nobody'}"
            )
        if answers.alert_webhook is not None:
            url = answers.alert_webhook
            lines.append(f"alerts: posts to {setup.address_shown(url) if url else 'nowhere'}")
        return lines

    def _advisor_lines(self, answers: Answers) -> list[str]:
        who = answers.advisor
        if who is None:
            return []
        known = self._aliases.find(f"did:nostr:{who.pubkey}")
        term = f"a trial of {answers.trial_days} days" if answers.trial_days else f"{HIRE_DAYS} days"
        lines = [f"advisor: {who.shown!a} ({npub_encode(who.pubkey)}), access {answers.need}, {term}"]
        if known is not None:
            past = "has a credential, which this one replaces" if known.active else "was revoked before"
            lines.append(f"advisor: {who.shown!a} {past}")
        return lines


def _candidate(answers: Answers) -> Candidate:
    assert answers.advisor is not None, "the trial is asked about somebody"
    return answers.advisor


def _key_like(word: str) -> bool:
    return word.casefold().startswith(("npub1", "nsec1", "did:", "nostr:")) or (
        len(word) == 64 and all(char in "0123456789abcdefABCDEF" for char in word)
    )


def _words(meanings: Mapping[str, str]) -> tuple[Choice, ...]:
    return tuple(Choice(word, means) for word, means in meanings.items())


def _keep(what: str) -> Choice:
    return Choice(KEEP, f"{what} stays" if not what.endswith("s") else f"{what} stay")
