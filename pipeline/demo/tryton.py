"""A running Tryton inside this process: its models, and transactions under its business rules.

Run by the interpreter of Tryton's environment, with TRYTOND_DATABASE_URI set; the password travels
in the environment, not on the command line.
"""
# mypy: disable-error-code="import-not-found,import-untyped"

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from trytond.pool import Pool
from trytond.transaction import Transaction, TransactionError
from trytond.worker import run_task

T = TypeVar("T")


class Tryton:
    """One database, used as one of its users. One thread uses it.

    `commit_sent_s`: when the last COMMIT of `transact` was sent, on the monotonic clock.
    """

    commit_sent_s = 0.0

    def __init__(self, database: str, *, login: str = "admin") -> None:
        Pool.start()
        self._database = database
        self._pool = Pool(database)
        self._pool.init()
        with Transaction().start(database, 0, readonly=True) as transaction:
            users = self.model("res.user")
            (user,) = users.search([("login", "=", login)])
            self._user: int = user.id
            with transaction.set_user(self._user):
                self._context = dict(users.get_preferences(context_only=True))
        self._context |= {"_check_access": True, "_skip_warnings": True}

    def model(self, name: str) -> Any:
        return self._pool.get(name)

    def wizard(self, name: str) -> Any:
        return self._pool.get(name, type="wizard")

    def transact(self, work: Callable[[], T]) -> T:
        """Do `work` in one committed transaction of the user's, as Tryton's server does for a client."""
        locks: dict[str, Any] = {}
        while True:
            with Transaction().start(
                self._database, self._user, context=self._context, **locks
            ) as transaction:
                try:
                    result = work()
                    with self._noting_commit(transaction.connection):
                        transaction.commit()
                except TransactionError as error:  # a lock that must be taken first: once more, with it
                    transaction.rollback()
                    error.fix(locks)
                    continue
            while transaction.tasks:
                run_task(self._database, transaction.tasks.pop())
            return result

    @contextmanager
    def _noting_commit(self, connection: Any) -> Iterator[None]:
        """Tryton does more than COMMIT in its `commit`: note when the connection's own is called."""
        commit = connection.commit

        def noting() -> None:
            self.commit_sent_s = time.monotonic()
            commit()

        connection.commit = noting
        try:
            yield
        finally:
            del connection.commit
