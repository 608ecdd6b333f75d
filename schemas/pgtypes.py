"""PostgreSQL's own types: what their OIDs mean, as SQL and as Avro.

OIDs below 10000 are the same in every PostgreSQL, so a static table names them; anything else is a
user's type, whose name pgoutput sends in a Type message before the Relation message that uses it.
What is not listed here as lossless in an Avro type of its own travels as PostgreSQL's text.
"""

from __future__ import annotations

from typing import Final

from schemas.errors import RefusedData

FIRST_USER_OID: Final = 10000
"""From here on OIDs differ between databases (FirstGenbkiObjectId), and pgoutput sends Type messages."""

BYTEA: Final = 17
BYTEA_ARRAY: Final = 1001

ROW_TYPES: Final = frozenset({71, 75, 81, 83, 1248, 2842, 2843, 4066, 6101})
"""Of catalogs: a column may have them like any table's. They are made of other types, as a user's are."""

# oid, oid of its array type (0: none, or a user's), name as format_type() says it without a modifier.
_TABLE: Final = """
16 1000 boolean, 17 1001 bytea, 18 1002 "char", 19 1003 name, 20 1016 bigint, 21 1005 smallint,
22 1006 int2vector, 23 1007 integer, 24 1008 regproc, 25 1009 text, 26 1028 oid, 27 1010 tid, 28 1011 xid,
29 1012 cid, 30 1013 oidvector, 71 210 pg_type, 75 270 pg_attribute, 81 272 pg_proc, 83 273 pg_class,
114 199 json, 142 143 xml, 194 0 pg_node_tree, 600 1017 point, 601 1018 lseg, 602 1019 path, 603 1020 box,
604 1027 polygon, 628 629 line, 650 651 cidr, 700 1021 real, 701 1022 double precision, 718 719 circle,
774 775 macaddr8, 790 791 money, 829 1040 macaddr, 869 1041 inet, 1033 1034 aclitem, 1042 1014 bpchar,
1043 1015 character varying, 1082 1182 date, 1083 1183 time without time zone,
1114 1115 timestamp without time zone, 1184 1185 timestamp with time zone, 1186 1187 interval,
1248 0 pg_database, 1266 1270 time with time zone, 1560 1561 "bit", 1562 1563 bit varying, 1700 1231 numeric,
1790 2201 refcursor, 2202 2207 regprocedure, 2203 2208 regoper, 2204 2209 regoperator, 2205 2210 regclass,
2206 2211 regtype, 2842 0 pg_authid, 2843 0 pg_auth_members, 2950 2951 uuid, 2970 2949 txid_snapshot,
3220 3221 pg_lsn, 3361 0 pg_ndistinct, 3402 0 pg_dependencies, 3614 3643 tsvector, 3615 3645 tsquery,
3642 3644 gtsvector, 3734 3735 regconfig, 3769 3770 regdictionary, 3802 3807 jsonb, 3904 3905 int4range,
3906 3907 numrange, 3908 3909 tsrange, 3910 3911 tstzrange, 3912 3913 daterange, 3926 3927 int8range,
4066 0 pg_shseclabel, 4072 4073 jsonpath, 4089 4090 regnamespace, 4096 4097 regrole, 4191 4192 regcollation,
4451 6150 int4multirange, 4532 6151 nummultirange, 4533 6152 tsmultirange, 4534 6153 tstzmultirange,
4535 6155 datemultirange, 4536 6157 int8multirange, 4600 0 pg_brin_bloom_summary,
4601 0 pg_brin_minmax_multi_summary, 5017 0 pg_mcv_list, 5038 5039 pg_snapshot, 5069 271 xid8,
6101 0 pg_subscription
"""


def _parse_table(text: str) -> tuple[dict[int, str], dict[int, int]]:
    names: dict[int, str] = {}
    elements: dict[int, int] = {}
    for entry in text.split(","):
        oid, array_oid, name = entry.split(maxsplit=2)
        names[int(oid)] = name.strip()
        if array_oid != "0":
            elements[int(array_oid)] = int(oid)
    return names, elements


_NAMES, _ELEMENTS = _parse_table(_TABLE)

# PostgreSQL writes these differently, or puts the modifier inside the name, when there is one.
_WITH_MODIFIER: Final = {
    1042: "character({})",
    1043: "character varying({})",
    1083: "time({}) without time zone",
    1114: "timestamp({}) without time zone",
    1184: "timestamp({}) with time zone",
    1266: "time({}) with time zone",
    1560: "bit({})",
    1562: "bit varying({})",
}
_HEADER_SIZE: Final = 4  # VARHDRSZ, which these modifiers carry on top
_WITH_HEADER: Final = frozenset({1042, 1043})
_NUMERIC: Final = 1700
_INTERVAL: Final = 1186

_YEAR, _MONTH, _DAY, _HOUR, _MINUTE, _SECOND = 1 << 2, 1 << 1, 1 << 3, 1 << 10, 1 << 11, 1 << 12
_INTERVAL_FIELDS: Final = {
    _YEAR: " year",
    _MONTH: " month",
    _DAY: " day",
    _HOUR: " hour",
    _MINUTE: " minute",
    _SECOND: " second",
    _YEAR | _MONTH: " year to month",
    _DAY | _HOUR: " day to hour",
    _DAY | _HOUR | _MINUTE: " day to minute",
    _DAY | _HOUR | _MINUTE | _SECOND: " day to second",
    _HOUR | _MINUTE: " hour to minute",
    _HOUR | _MINUTE | _SECOND: " hour to second",
    _MINUTE | _SECOND: " minute to second",
    0x7FFF: "",
}
_FULL_PRECISION: Final = 0xFFFF


def format_type(
    type_oid: int, type_modifier: int, user_type: tuple[str, str] | None = None, *, column: str = "a column"
) -> str:
    """SQL that names a type, as format_type() does: usable in CREATE TABLE and casts with an empty
    search_path.

    `user_type` is (namespace, name) from the Type message; it names what the static table does not
    know. Its modifier is left out: only the type's own typmodout function could write it. `column`: whose
    type it is, for messages.
    Raises RefusedData (`type-unknown`) for an unknown OID without a `user_type`.
    """
    element = _ELEMENTS.get(type_oid)
    if element is not None:
        return f"{_format_scalar(element, type_modifier)}[]"
    if type_oid in _NAMES:
        return _format_scalar(type_oid, type_modifier)
    if user_type is None:
        raise RefusedData(
            f"the type of {column}, with OID {type_oid}, is not known and the stream does not name it",
            code="type-unknown",
            hint=f"See what it is with: select {type_oid}::regtype; then exclude its table under "
            "source.tables.exclude, or upgrade Keepstream.",
        )
    return ".".join(_quote(part) for part in user_type)


def element_of(type_oid: int) -> int | None:
    """The OID of the elements of a built-in array type; None of anything else."""
    return _ELEMENTS.get(type_oid)


def is_row_type(type_oid: int) -> bool:
    """Whether a built-in type is a catalog's row type, or an array of them."""
    return _ELEMENTS.get(type_oid, type_oid) in ROW_TYPES


def scale_of(modifier: int) -> int:
    """The scale in the modifier of numeric(p,s)."""
    return ((modifier - _HEADER_SIZE) & 0x7FF ^ 0x400) - 0x400  # 11 bits, signed


def _format_scalar(oid: int, modifier: int) -> str:
    if modifier < 0:
        return _NAMES[oid]
    if oid == _NUMERIC:
        return _format_numeric(modifier)
    if oid == _INTERVAL:
        return _format_interval(modifier)
    if oid in _WITH_MODIFIER:
        return _WITH_MODIFIER[oid].format(modifier - _HEADER_SIZE if oid in _WITH_HEADER else modifier)
    return _NAMES[oid]


def _format_numeric(modifier: int) -> str:
    precision = modifier - _HEADER_SIZE >> 16 & 0xFFFF
    return f"numeric({precision},{scale_of(modifier)})"


def _format_interval(modifier: int) -> str:
    precision = modifier & 0xFFFF
    fields = _INTERVAL_FIELDS[modifier >> 16 & 0x7FFF]
    return f"interval{fields}" if precision == _FULL_PRECISION else f"interval{fields}({precision})"


def _quote(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'
