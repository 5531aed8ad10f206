"""The setup session: a way from nothing to a working node by questions and answers.

docs/protocol/08-client-and-plugins.md §7 "Setup". Until `confirm` only the session's own row is written.
`confirm` is one transaction: policy, advisor with credential and offer, receipts, and the session's end,
or none of them. Alert targets are options, which only the node writes: they are noted in that transaction
and handed over after it until the node took them (docs/decisions/0260-one-setup-one-transaction.md).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import msgspec
from hive_shared.alerts import Level
from hive_shared.canonical import JsonValue
from hive_shared.cln import ClnError
from hive_shared.errors import Conflict, InvalidParams, NotFound
from hive_shared.store import Db, Tx
from msgspec.structs import replace

from cl_hive_comms.domain import setup
from cl_hive_comms.domain.advisor import CredentialRow
from cl_hive_comms.domain.setup import Answers, Part, Session, State, Step
from cl_hive_comms.services.advisor_requests import Hire
from cl_hive_comms.services.advisor_service import AdvisorService
from cl_hive_comms.services.alert_service import AlertService
from cl_hive_comms.services.policy_service import PolicyService
from cl_hive_comms.services.ports_commands import Fault
from cl_hive_comms.services.ports_identity import Clock, Log, RandomBytes
from cl_hive_comms.services.ports_setup import Choice, NodeOptions, Question, SetupRows, View
from cl_hive_comms.services.receipt_service import ReceiptService, operator_event
from cl_hive_comms.services.setup_questions import SetupQuestions

METHOD: Final = "hive-client-setup"
_START: Final = f"lightning-cli {METHOD}"
_SESSION_ENDED: Final = "setup_ended"


class SetupService:
    """One session at a time; calls come one after the other."""

    def __init__(
        self,
        db: Db,
        store: SetupRows,
        questions: SetupQuestions,
        *,
        policy: PolicyService,
        advisors: AdvisorService,
        receipts: ReceiptService,
        alerts: AlertService,
        options: NodeOptions,
        now: Clock,
        random_bytes: RandomBytes,
        log: Log,
        fault: Fault,
    ) -> None:
        self._db, self._store, self._questions = db, store, questions
        self._policy, self._advisors, self._receipts, self._alerts = policy, advisors, receipts, alerts
        self._options, self._now, self._random_bytes = options, now, random_bytes
        self._log, self._fault = log, fault
        self._lock = asyncio.Lock()

    async def show(self, session_id: str = "") -> View:
        """The open question of a session; without an id that of the open session, or a new one.

        Raises NotFound for an id that does not exist.
        """
        async with self._lock:
            session = await self._named(session_id) if session_id else await self._open_or_new()
            return await self._view(session)

    async def answer(self, session_id: str, value: object) -> View:
        """Take an answer to the open question; what comes next is in the view.

        A `confirm` that is sent twice shows what the first did. Raises InvalidParams, NotFound, Conflict
        (setup_ended) and what the step's own checks refuse; then nothing is changed.
        """
        text = setup.answer_text(value)
        async with self._lock:
            if not session_id:
                raise InvalidParams(await self._which())
            session = await self._named(session_id)
            word = setup.word_of(text)
            if session.state in (State.APPLYING, State.DONE) and word == setup.CONFIRM:
                return await self._view(session)
            if session.state is not State.OPEN:
                raise Conflict(
                    f"this setup has ended ({session.state.value}) and takes no answer; begin anew: {_START}",
                    reason=_SESSION_ENDED,
                )
            if word == setup.CANCEL:
                return await self._view(await self._cancelled(session))
            if session.step is Step.CONFIRM and word == setup.CONFIRM:
                return await self._view(await self._confirmed(session))
            return await self._view(await self._moved(session, word, text))

    async def cancel(self, session_id: str = "") -> View:
        """End a session, without an id the open one; nothing was changed. Raises NotFound, Conflict."""
        async with self._lock:
            session = await self._named(session_id) if session_id else await self._current()
            if session is None:
                raise NotFound(f"no setup is open; {_START} begins one")
            return await self._view(await self._cancelled(session))

    async def settle(self) -> None:
        """Hand over what a confirmed session still owes to the node, and end one whose time is over; run at
        start and every minute."""
        async with self._lock:
            session = await self._current()
            if session is not None and session.state is State.APPLYING:
                await self._hand_over(session)

    # -- sessions ----------------------------------------------------------------------------------------

    async def _named(self, session_id: str) -> Session:
        session = await self._db.read(lambda tx: self._store.get(tx, session_id))
        if session is None:
            raise NotFound(f"there is no setup {session_id[:40]!a}; {await self._which()}")
        return await self._fresh(session)

    async def _current(self) -> Session | None:
        session = await self._db.read(self._store.current)
        if session is None:
            return None
        fresh = await self._fresh(session)
        return None if fresh.state is State.EXPIRED else fresh

    async def _fresh(self, session: Session) -> Session:
        """The session, expired if its time is over."""
        if session.state is not State.OPEN or self._now() < session.expires_at:
            return session
        return await self._saved(session.ended(State.EXPIRED, self._now()))

    async def _which(self) -> str:
        current = await self._current()
        if current is None:
            return f"no setup is open; {_START} begins one"
        return f"the open setup is session={current.session_id}; {_START} shows its question"

    async def _open_or_new(self) -> Session:
        current = await self._current()
        if current is not None and current.state is State.APPLYING:
            current = await self._hand_over(current)
        if current is not None and current.state in (State.OPEN, State.APPLYING):
            return current
        now = self._now()
        # A letter in front: lightning-cli takes what looks like a number for one.
        name = f"s-{self._random_bytes(4).hex()}"
        fresh = Session(name, State.OPEN, Step.SELFCHECK, Answers(), now, now, now + setup.SESSION_S)

        def body(tx: Tx) -> None:
            self._store.forget(tx, now - setup.KEPT_S)
            self._store.add(tx, fresh)

        await self._db.write(body)
        return fresh

    async def _saved(self, session: Session) -> Session:
        await self._db.write(lambda tx: self._store.save(tx, session))
        return session

    async def _cancelled(self, session: Session) -> Session:
        if session.state is not State.OPEN:
            raise Conflict(
                f"this setup has ended ({session.state.value}) and cannot be cancelled", reason=_SESSION_ENDED
            )
        return await self._saved(session.ended(State.CANCELLED, self._now()))

    async def _moved(self, session: Session, word: str, text: str) -> Session:
        step, answers = session.step, session.answers
        if word == setup.BACK:
            following = setup.before(step, answers)
        elif step is Step.SELFCHECK:
            again = setup.one_of(step, text, {setup.CONTINUE: "", setup.AGAIN: ""}) == setup.AGAIN
            following = step if again else setup.after(step, answers)
        elif step is Step.CONFIRM:
            setup.one_of(step, text, {setup.CONFIRM: "", setup.BACK: ""})
            following = step
        else:
            answers = await self._questions.read(step, answers, text)
            following = setup.after(step, answers)
        return await self._saved(session.at(following, answers, self._now()))

    # -- confirm -----------------------------------------------------------------------------------------

    async def _confirmed(self, session: Session) -> Session:
        """All or nothing: what is refused here leaves the session at its last step."""
        answers = session.answers
        async with self._policy_change(answers) as write_policy:
            await self._fault("setup_before_commit")
            done: list[Session] = []

            def together(tx: Tx, row: CredentialRow | None) -> None:
                write_policy(tx)
                done.append(self._close_in(tx, session, row))

            if answers.advisor is None:
                await self._db.write(lambda tx: together(tx, None))
            else:
                await self._advisors.authorize(_hire(answers), also=together)
        self._log("info", "setup_confirmed", session=session.session_id)
        return await self._hand_over(done[-1]) if done[-1].state is State.APPLYING else done[-1]

    @asynccontextmanager
    async def _policy_change(self, answers: Answers) -> AsyncIterator[Callable[[Tx], None]]:
        if answers.preset is None and not answers.limits:
            yield lambda tx: None
            return
        async with self._policy.choosing(answers.preset, answers.limits) as write:
            yield write

    def _close_in(self, tx: Tx, session: Session, row: CredentialRow | None) -> Session:
        now, answers = self._now(), session.answers
        owed = setup.options_of(answers)
        report = tuple(Part(name, "done", detail) for name, detail in _stored(answers, row))
        report += tuple(Part(name, "owed", _option_line(name, value)) for name, value in owed.items())
        state = State.APPLYING if owed else State.DONE
        closed = replace(session.ended(State.DONE, now), state=state, report=report)
        if owed:
            # The node needs the address once more.
            closed = replace(closed, answers=answers)
        terms: dict[str, JsonValue] = {
            "need": answers.need,
            "preset": answers.preset,
            "limits": dict(answers.limits),
            "alerts": ",".join(sorted(owed)),
            "trial_days": answers.trial_days,
        }
        self._receipts.append(
            tx,
            operator_event(
                "setup",
                params=terms,
                advisor_id="" if row is None else row.advisor_id,
                agent_id=None if row is None else row.credential.agent_id,
                credential_id=None if row is None else row.credential_id,
            ),
        )
        self._store.save(tx, closed)
        return closed

    async def _hand_over(self, session: Session) -> Session:
        wanted = setup.options_of(session.answers)
        for part in session.report:
            if part.state != "owed":
                continue
            await self._fault(f"setup_{part.name}")
            try:
                await self._options.set(part.name, wanted[part.name])
            except ClnError as error:
                if error.outcome_unknown:
                    self._log("warning", "setup_option_owed", option=part.name)
                    continue
                session = await self._saved(_with_part(session, _refused(part, error)))
                await self._alerts.alert(Level.WARNING, "setup_option_refused", session.report[-1].detail)
            else:
                session = await self._saved(_with_part(session, msgspec.structs.replace(part, state="done")))
        if all(part.state != "owed" for part in session.report):
            session = await self._saved(session.ended(State.DONE, self._now()))
        return session

    # -- what is shown -------------------------------------------------------------------------------------

    async def _view(self, session: Session) -> View:
        if session.state is State.OPEN:
            question = await self._questions.ask(session.step, session.answers)
            moves = [Choice(setup.CANCEL, "end the setup; nothing was changed")]
            if session.step is not Step.SELFCHECK:
                moves.insert(0, Choice(setup.BACK, "the question before"))
            following = None if session.step is Step.CONFIRM else setup.after(session.step, session.answers)
            if session.step is Step.ADVISOR:
                # What follows if somebody is named.
                following = Step.TRIAL
            return View(
                session.session_id,
                session.step.value,
                replace(question, choices=(*question.choices, *moves)),
                next_step=following,
                expires_at=session.expires_at,
            )
        return View(
            session.session_id,
            session.state.value,
            Question(_ENDED[session.state], ()),
            done=session.state is not State.APPLYING,
            report=session.report,
            then=_afterwards(session),
        )


_ENDED: Final = {
    State.APPLYING: "Confirmed and stored. The node has not taken every option yet; it is asked again every"
    " minute, also after a restart.",
    State.DONE: "Setup is done.",
    State.CANCELLED: "The setup was cancelled; nothing was changed or granted.",
    State.EXPIRED: "The setup expired half an hour after its last answer; nothing was changed or granted.",
}


def _afterwards(session: Session) -> tuple[str, ...]:
    if session.state in (State.CANCELLED, State.EXPIRED):
        return (_START,)
    if session.state is State.APPLYING:
        return (f"lightning-cli -k {METHOD} session={session.session_id}",)
    hired = any(part.name == "advisor" for part in session.report)
    commands = ["lightning-cli hive-client-status format=text", "lightning-cli hive-client-pending"]
    return (*commands, "lightning-cli -k hive-client-revoke all=true") if hired else tuple(commands)


def _hire(answers: Answers) -> Hire:
    who = answers.advisor
    assert who is not None
    return Hire(
        who.new_name,
        answers.need,
        days=setup.HIRE_DAYS,
        npub=who.pubkey,
        trial_days=answers.trial_days,
        # The last question said whether somebody is hired again.
        confirm=True,
    )


def _stored(answers: Answers, row: CredentialRow | None) -> list[tuple[str, str]]:
    parts = []
    if answers.preset is not None or answers.limits:
        chosen = [f"{name}={value}" for name, value in answers.limits.items()]
        parts.append(("policy", ", ".join([*([answers.preset] if answers.preset else []), *chosen])))
    if row is not None and answers.advisor is not None:
        kind = "trial" if answers.trial_days else "hire"
        parts.append(("advisor", f"{kind} of {answers.advisor.shown}, credential {row.credential_id}"))
    return parts


def _option_line(name: str, value: str) -> str:
    if not value:
        return "off"
    return setup.address_shown(value) if name == setup.WEBHOOK else value


def _with_part(session: Session, part: Part) -> Session:
    return replace(session, report=tuple(part if each.name == part.name else each for each in session.report))


def _refused(part: Part, error: ClnError) -> Part:
    why = error.message[:200]
    detail = f"the node refused hive-comms-{part.name} ({why}); set it with lightning-cli setconfig"
    return Part(part.name, "failed", detail)
