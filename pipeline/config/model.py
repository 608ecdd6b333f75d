"""What keepstream.yaml may say: the model of every key, with its default.

All parts are frozen. Each of `source`, `log` and a replica may be one text (its URL) or a mapping.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    Field,
    PrivateAttr,
    field_validator,
    model_validator,
)

from connectors.log_url import parse_log_url
from connectors.postgres.limits.limit import Limit, Limits
from pipeline.config.limits import TableLimit
from pipeline.config.part import Part
from pipeline.config.policies import Policies
from pipeline.config.values import ConnectionString, Duration, Secret, TablePattern


class Keyless(Enum):
    """What becomes of a table without usable replica identity."""

    FULL = "full"
    EXCLUDE = "exclude"
    REFUSE = "refuse"


class Partitions(Enum):
    """Under which names rows of partitions come, in a publication that we make."""

    LEAVES = "leaves"
    ROOT = "root"


class Initial(Enum):
    """How a new replica gets its first content: we copy all, we copy rows, it has equal rows."""

    COPY = "copy"
    DATA = "data"
    NONE = "none"


class AwaitedCopies(Enum):
    """Who copies a table that joined without its rows: the replica's applier, or an operator."""

    AUTO = "auto"
    MANUAL = "manual"


class LongOrShort(Part):
    """A part that may be written as its URL alone."""

    @model_validator(mode="before")
    @classmethod
    def _from_url(cls, value: object) -> object:
        return {"url": value} if isinstance(value, (str, Secret)) else value


class Tables(Part):
    """Which tables are replicated: any that `include` names and `exclude` does not. `limits`: of single
    tables, which columns and rows."""

    include: tuple[TablePattern, ...] = (TablePattern("*.*"),)
    exclude: tuple[TablePattern, ...] = ()
    limits: Mapping[TablePattern, TableLimit] = Field(default_factory=dict)

    @field_validator("limits")
    @classmethod
    def _one_table_each(cls, limits: Mapping[TablePattern, TableLimit]) -> Mapping[TablePattern, TableLimit]:
        seen: dict[tuple[str, str], TablePattern] = {}
        for pattern in limits:
            if pattern.name is None:
                raise ValueError(f"`{pattern}` must name one table: schema.table, without *")
            if pattern.name in seen:
                raise ValueError(f"`{pattern}` names the same table as `{seen[pattern.name]}`")
            seen[pattern.name] = pattern
        return limits

    @cached_property
    def limits_by_name(self) -> Limits:
        """By schema and name."""
        return {pattern.name: one.limit for pattern, one in self.limits.items() if pattern.name is not None}

    def limit_of(self, schema: str, table: str) -> Limit | None:
        return self.limits_by_name.get((schema, table))

    def selects(self, schema: str, table: str) -> bool:
        return any(pattern.matches(schema, table) for pattern in self.include) and not any(
            pattern.matches(schema, table) for pattern in self.exclude
        )


class Source(LongOrShort):
    """`failover`: its slot survives on standbys that synchronise it (PostgreSQL 17 on)."""

    url: ConnectionString
    publication: str | None = Field(default=None, min_length=1, max_length=63)
    tables: Tables = Tables()
    keyless: Keyless = Keyless.REFUSE
    partitions: Partitions = Partitions.LEAVES
    failover: bool = False


def _log_url(url: str) -> str:
    parse_log_url(url)
    return url.rstrip("/")


class Log(LongOrShort):
    """`replication`: copies of the topic, None for what the cluster can bear. `client`: Kafka client
    settings under their Java names (`security.protocol`, `sasl.jaas.config`, …)."""

    url: Annotated[str, AfterValidator(_log_url)]
    retain: Duration = timedelta(days=7)
    replication: int | None = Field(default=None, ge=1, le=32)
    client: Mapping[str, Secret] = Field(default_factory=dict)

    @property
    def is_kafka(self) -> bool:
        return self.url.startswith("kafka://")

    def client_settings(self) -> dict[str, str]:
        """The client settings in clear text, for the connector alone."""
        return {name: value.reveal() for name, value in self.client.items()}

    @model_validator(mode="after")
    def _directory_has_no_client(self) -> Log:
        if not self.is_kafka and (self.client or self.replication):
            raise ValueError("`client` and `replication` are for a kafka:// log; a file:// log has neither")
        return self


class SchemaChanges(Part):
    """What replicas do with each kind of schema change; what is not named here has its default."""

    policies: Policies = Field(default_factory=dict)


class Replica(LongOrShort):
    """`schema_`: only where it differs from the whole file's. `copy_awaited`: with a `delay` it is manual, in
    any case."""

    url: ConnectionString
    initial: Initial = Initial.COPY
    delay: Duration = timedelta(0)
    copy_awaited: AwaitedCopies = AwaitedCopies.AUTO
    schema_: SchemaChanges = Field(default=SchemaChanges(), alias="schema")

    @property
    def copies_awaited(self) -> bool:
        """Whether its applier does. One that keeps a delay would have to stand still for as long to come to
        one LSN with the source."""
        return self.copy_awaited is AwaitedCopies.AUTO and not self.delay


class Tools(Part):
    """Where programs are that we call. `pg_bin`: a folder with pg_dump and pg_restore."""

    pg_bin: Path | None = None


NAME = re.compile(r"[a-z][a-z0-9_]{0,30}")
REPLICA_NAME = re.compile(r"[a-z][a-z0-9_-]{0,30}")


class Config(Part):
    """The whole file."""

    name: str
    source: Source
    log: Log
    replicas: Mapping[str, Replica] = Field(default_factory=dict)
    schema_: SchemaChanges = Field(default=SchemaChanges(), alias="schema")
    tools: Tools = Tools()
    _path: Path | None = PrivateAttr(default=None)

    @field_validator("name")
    @classmethod
    def _name_fits_everywhere(cls, name: str) -> str:
        if not NAME.fullmatch(name):
            raise ValueError("must match [a-z][a-z0-9_]{0,30}: it names slot, publication and topics")
        return name

    @field_validator("replicas", mode="before")
    @classmethod
    def _no_replicas_yet(cls, replicas: object) -> Any:
        return {} if replicas is None else replicas

    @field_validator("replicas")
    @classmethod
    def _replica_names(cls, replicas: Mapping[str, Replica]) -> Mapping[str, Replica]:
        for name in replicas:
            if not REPLICA_NAME.fullmatch(name):
                raise ValueError(f"replica name {name!r} must match [a-z][a-z0-9_-]{{0,30}}")
        return replicas

    @property
    def path(self) -> Path | None:
        """Where it was read, absolute; None if it was made in memory."""
        return self._path

    def remember_path(self, path: Path) -> Config:
        """Remember where it was read."""
        self._path = path.absolute()
        return self

    @property
    def slot_name(self) -> str:
        return f"keepstream_{self.name}"

    @property
    def publication_name(self) -> str:
        return self.source.publication or f"keepstream_{self.name}"
