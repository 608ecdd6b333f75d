"""The kinds of schema change, and what a replica does with each where nobody says otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class Policy(StrEnum):
    """What a replica does with a kind of change: follow it, wait for an operator, or leave it out."""

    APPLY = "apply"
    PAUSE = "pause"
    IGNORE = "ignore"


class Kind(StrEnum):
    """Kinds of change, under the names that `schema.policies` in keepstream.yaml uses."""

    CREATE_TABLE = "create_table"
    DROP_TABLE = "drop_table"
    RENAME_TABLE = "rename_table"
    SET_SCHEMA = "set_schema"
    ADD_COLUMN = "add_column"
    DROP_COLUMN = "drop_column"
    RENAME_COLUMN = "rename_column"
    ALTER_TYPE = "alter_type"
    DEFAULT = "default"
    NOT_NULL = "not_null"
    IDENTITY = "identity"
    GENERATED = "generated"
    KEY = "key"
    UNIQUE = "unique"
    CHECK = "check"
    EXCLUSION = "exclusion"
    FOREIGN_KEY = "foreign_key"
    INDEX = "index"
    ATTACH_PARTITION = "attach_partition"
    DETACH_PARTITION = "detach_partition"
    INHERITANCE = "inheritance"
    SCHEMA = "schema"
    DROP_SCHEMA = "drop_schema"
    ENUM_VALUE = "enum_value"
    ENUM_RENAME = "enum_rename"
    ENUM = "enum"
    DOMAIN = "domain"
    COMPOSITE = "composite"
    RANGE = "range"
    DROP_TYPE = "drop_type"
    SEQUENCE = "sequence"
    VIEW = "view"
    MATVIEW = "matview"
    FUNCTION = "function"
    TRIGGER = "trigger"
    RULE = "rule"
    POLICY = "policy"
    ROW_SECURITY = "row_security"
    EXTENSION = "extension"
    COMMENT = "comment"
    STORAGE = "storage"
    OWNER = "owner"
    GRANTS = "grants"
    OTHER = "other"


_PAUSES: Final = frozenset(
    {Kind.DROP_TABLE, Kind.DROP_COLUMN, Kind.ALTER_TYPE, Kind.DROP_SCHEMA, Kind.DROP_TYPE}
)
_IGNORED: Final = frozenset({Kind.OWNER, Kind.GRANTS, Kind.OTHER})

DEFAULTS: Final[Mapping[Kind, Policy]] = {
    kind: Policy.PAUSE if kind in _PAUSES else Policy.IGNORE if kind in _IGNORED else Policy.APPLY
    for kind in Kind
}

NEVER_APPLIED: Final = frozenset({Kind.OTHER})
"""Nobody knows how to make these on a replica: it waits, or leaves them out."""

MEANINGS: Final[Mapping[Kind, str]] = {
    Kind.CREATE_TABLE: "CREATE TABLE, also of a partition; its rows come once it is published",
    Kind.DROP_TABLE: "DROP TABLE",
    Kind.RENAME_TABLE: "ALTER TABLE … RENAME TO",
    Kind.SET_SCHEMA: "ALTER … SET SCHEMA of a table",
    Kind.ADD_COLUMN: "ADD COLUMN; older rows get what they have on the source, also of a volatile default",
    Kind.DROP_COLUMN: "DROP COLUMN",
    Kind.RENAME_COLUMN: "RENAME COLUMN",
    Kind.ALTER_TYPE: "ALTER COLUMN … TYPE, with or without USING; rows that it rewrote are sent anew",
    Kind.DEFAULT: "SET or DROP DEFAULT; one that the replica cannot make is kept in keepstream.deferred_ddl",
    Kind.NOT_NULL: "SET or DROP NOT NULL; from 18 to 18 also its name, NO INHERIT and NOT VALID",
    Kind.IDENTITY: "ADD, SET or DROP of GENERATED … AS IDENTITY",
    Kind.GENERATED: "DROP or SET EXPRESSION of a generated column",
    Kind.KEY: "primary keys, and REPLICA IDENTITY",
    Kind.UNIQUE: "UNIQUE constraints",
    Kind.CHECK: "CHECK constraints, also their NOT VALID and VALIDATE",
    Kind.EXCLUSION: "EXCLUDE constraints",
    Kind.FOREIGN_KEY: "foreign keys; one that cannot be made is kept in keepstream.deferred_ddl",
    Kind.INDEX: "indexes; CREATE INDEX CONCURRENTLY is made as a plain one",
    Kind.ATTACH_PARTITION: "ATTACH PARTITION",
    Kind.DETACH_PARTITION: "DETACH PARTITION, as a plain one also where it was CONCURRENTLY",
    Kind.INHERITANCE: "INHERIT and NO INHERIT",
    Kind.SCHEMA: "CREATE SCHEMA and ALTER SCHEMA … RENAME",
    Kind.DROP_SCHEMA: "DROP SCHEMA",
    Kind.ENUM_VALUE: "ALTER TYPE … ADD VALUE",
    Kind.ENUM_RENAME: "ALTER TYPE … RENAME VALUE",
    Kind.ENUM: "CREATE TYPE … AS ENUM, its name and schema",
    Kind.DOMAIN: "domains and their constraints",
    Kind.COMPOSITE: "composite types and their attributes",
    Kind.RANGE: "range types",
    Kind.DROP_TYPE: "DROP TYPE and DROP DOMAIN",
    Kind.SEQUENCE: "sequences: their options; the values that they reach come beside the schema changes",
    Kind.VIEW: "views",
    Kind.MATVIEW: "materialized views; REFRESH is the replica's own business",
    Kind.FUNCTION: "functions and procedures; bodies are not checked",
    Kind.TRIGGER: "triggers; one that would act on replicated rows is kept still",
    Kind.RULE: "rules; one that would act on replicated rows is kept still",
    Kind.POLICY: "policies of row-level security",
    Kind.ROW_SECURITY: "ENABLE and DISABLE ROW LEVEL SECURITY; FORCE is kept in keepstream.deferred_ddl",
    Kind.EXTENSION: "extensions, where the replica's server has them",
    Kind.COMMENT: "COMMENT ON what is followed",
    Kind.STORAGE: "storage, compression, statistics targets, parameters, access method, LOGGED, CLUSTER",
    Kind.OWNER: "OWNER TO, and whose a new object is; left out, the replica's objects belong to our role",
    Kind.GRANTS: "GRANT, REVOKE and ALTER DEFAULT PRIVILEGES, and what a new object comes with",
    Kind.OTHER: "all else: aggregates, operators, casts, text search, statistics objects, foreign tables, …",
}
