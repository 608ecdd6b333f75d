"""What to do about each thing that `status` warns of, by the finding's code."""

from __future__ import annotations

from connectors.postgres.activity import SEE_WAITS
from pipeline.capture.entries.ended import BEGIN_TRACKING
from schemas.errors import BEGIN_ANEW

HINTS = {
    "capture-silent": "Its process hangs, or cannot write to the log: look at its output. `keepstream capture"
    " --take-over` takes its place at once.",
    "walsender-silent": "Its process hangs, or the network between it and the source is cut: look at its"
    " output. `keepstream capture --take-over` takes its place at once.",
    "capture-stuck": "Look at its last error, and whether the log's servers answer. The source may still be"
    " decoding one large transaction. On the source: {waits}",
    "apply-silent": "Its process hangs, or cannot write to the log: look at its output. `keepstream apply"
    " {replica} --take-over` takes its place at once.",
    "capture-hangs": "The source is frozen, overloaded, or cut off without a word: look at that server. When"
    " it answers, capture goes on by itself; `keepstream status` shows it.",
    "schema-waits": "See them with `keepstream schema show {replica}`, and let it go on with `keepstream"
    " schema approve {replica}`, or without them: --ignore.",
    "apply-hangs": "The replica is frozen, overloaded, or cut off without a word: look at that server. When"
    " it answers, apply goes on by itself; `keepstream status` shows it.",
    "reports-missing": "They were deleted, or do not reach the log: look at its output. It makes a missing"
    " status topic of Kafka anew by itself; `keepstream check` looks for it. A restart of `keepstream run` is"
    " always safe.",
    "log-missing": "It was deleted, or the configuration names another one. Put it back. If it is lost,"
    " {begin_anew}.",
    "log-end-unknown": "The log's newest records could not be read in time. `keepstream check` reads them,"
    " however long that takes, and compares log and slot.",
    "apply-stuck": "On the replica: {waits} `keepstream apply {replica} --take-over` ends a session that"
    " hangs.",
    "rest-missing": "Start `keepstream run` or `keepstream capture`, or mend what keeps capture from writing"
    " the log. Until then the transaction's rows stay locked on the replica; ending the applier rolls it"
    " back.",
    "epoch-broken": "Start `keepstream run` or `keepstream capture`, or restart the one that runs: at its"
    " start it begins a new epoch where the log was last valid, and what came after comes again, or it says"
    " why it cannot. Without a new epoch apply stops after five minutes.",
    "ddl-not-tracked": f"{BEGIN_TRACKING} To go on so for good, run `keepstream schema uninstall`.",
    "table-undecided": "`keepstream check --fix-sql` prints each way: a key, REPLICA IDENTITY FULL, or"
    " leaving it out.",
    "sequences-unread": "Capture tries again every ten seconds; until then replicas' sequences stay where"
    " they are. On the source: {waits}",
    "sequences-hidden": "Replicas' stay where the first copy set them. `keepstream check` names them, with"
    " the SQL that lets it read them.",
    "slot-missing": "It was dropped, so changes since then are lost to the log. If that was meant,"
    " {begin_anew}.",
    "slot-lost": "The source removed WAL that the log does not have. Raise max_slot_wal_keep_size on the"
    " source and {begin_anew}.",
    "standby-away": "Start that standby, or take its slot out of the list, on the source: alter system set"
    " synchronized_standby_slots = '…'; select pg_reload_conf();",
    "slot-about-to-be-lost": "Give it room at once, on the source: alter system set max_slot_wal_keep_size ="
    " '…'; select pg_reload_conf(); Then see why capture is behind.",
}


def hint_for(code: str, replica: str = "REPLICA") -> str:
    """A full sentence with a command or SQL."""
    return HINTS[code].format(waits=SEE_WAITS, replica=replica, begin_anew=BEGIN_ANEW)
