"""Extreme values of PostgreSQL's types, as SQL input: what must survive every way through Keepstream.

`SETUP` makes the user-defined types; `EXTENSIONS` go into schema public. A table with a column for each
type and `ROWS` rows holds them all, shorter lists filled up with NULL; the last row is all NULL.
`CONTRIB` has types of more extensions, which a server may lack.
"""

from __future__ import annotations

from typing import Final

EXTENSIONS: Final = ("citext", "hstore", "ltree")

SETUP: Final = """
create schema odd;
create type odd.mood as enum ('sad', 'it''s "ok"', 'ha,ppy', '', '😀');
create type odd.pair as (a int, "B c" text);
create type odd.nested as (p odd.pair, t timestamptz[], f float8);
create domain odd.positive as integer check (value > 0);
create domain odd.tags as text[];
create type odd.floats as range (subtype = float8);
"""

_TIMES: Final = ["04:05:06.789", "00:00:00", "23:59:59.999999", "24:00:00"]
_TIMESTAMPS: Final = [
    "infinity", "-infinity", "4714-11-24 00:00:00 BC", "0044-03-15 12:00:00.5 BC",
    "0001-12-31 23:59:59.999999 BC", "0001-01-01 00:00:00", "1582-10-10 01:02:03",
    "1969-12-31 23:59:59.999999", "1970-01-01 00:00:00", "2000-02-29 12:00:00.100000",
    "2024-05-01 12:34:56.000001", "3111-09-16 23:00:00", "9999-12-31 23:59:59.999999",
    "10000-01-01 00:00:00", "10000-01-01 12:34:56.12345", "294247-01-10 04:00:54.775806",
    "294247-01-10 04:00:54.775807", "294247-01-10 04:00:54.775808", "294276-12-31 23:59:59.999999",
]  # fmt: skip

VALUES: Final[dict[str, list[str]]] = {
    "boolean": ["t", "f"],
    "smallint": ["-32768", "0", "32767"],
    "integer": ["-2147483648", "-1", "0", "63", "64", "8191", "8192", "2147483647"],
    "bigint": ["-9223372036854775808", "-1", "0", "9223372036854775807", "1000000000", "99999999"],
    "oid": ["0", "2147483648", "4294967295"],
    "xid": ["3", "4294967295"],
    "cid": ["0", "4294967295"],
    "tid": ["(4294967295,65535)"],
    "xid8": ["18446744073709551615"],
    "pg_lsn": ["0/0", "FFFFFFFF/FFFFFFFF"],
    "numeric": [
        "NaN", "Infinity", "-Infinity", "0", "-0.000", "1e-1000", "9" * 1000 + "." + "1" * 1000, "1.10",
    ],
    "numeric(10,2)": ["12345678.90", "-0.01", "NaN"],
    "numeric(4,-2)": ["123456", "-50"],
    "numeric(3,5)": ["0.00999"],
    "numeric(1000)": ["9" * 1000],
    "real": [
        "NaN", "Infinity", "-Infinity", "0", "-0", "1e-45", "3.4028235e+38", "1.17549435e-38", "0.1",
        "16777216", "16777217", "999999", "1e6", "33554430", "8388608.5", "123456.7", "1.5e-5",
    ],
    "double precision": [
        "NaN", "Infinity", "-Infinity", "0", "-0", "5e-324", "1.7976931348623157e308", "0.1", "1e23",
        "2.2250738585072014e-308", "123456789012345", "1e15", "9007199254740993", "0.0001", "1e-5",
        "0.30000000000000004", "5.684341886080802e-14",
    ],
    "money": ["-92233720368547758.08", "92233720368547758.07", "$1,234.56"],
    "date": [
        "infinity", "-infinity", "4714-11-24 BC", "0001-12-31 BC", "0001-01-01", "1970-01-01", "2024-02-29",
        "9999-12-31", "10000-01-01", "5874897-12-31",
    ],
    "time": _TIMES,
    "time(0)": _TIMES,
    "time with time zone": ["04:05:06.789+15:59:59", "24:00:00-15:59:59", "00:00:00+00"],
    "time(3) with time zone": ["23:59:59.999-08"],
    "timestamp": _TIMESTAMPS,
    "timestamp(0)": _TIMESTAMPS[:-1],
    "timestamp(3)": ["2024-05-01 12:34:56.789", "2024-05-01 12:34:56.7"],
    "timestamptz": [*_TIMESTAMPS, "2024-05-01 12:34:56.789+05:45", "0044-03-15 12:00:00+00 BC"],
    "timestamptz(6)": ["2024-05-01 12:34:56.789012-08"],
    "interval": [
        "0", "1 year -2 mons 3 days -04:05:06.789", "-178000000 years", "178000000 years",
        "-1 day +23:59:59.999999", "2562047788:00:54.775807",
    ],
    "interval day to second(2)": ["-1 day 03:04:05.67"],
    "interval year to month": ["-1 year 2 mons"],
    "bytea": ["", "\\x00", "\\x" + bytes(range(256)).hex(), "\\x5c786162", "\\x" + "ab" * 9000],
    '"char"': ["", "a", "\\377", "\\"],
    "name": ["", "x" * 63, 'we"ird name'],
    "text": [
        "", " ", "\\N", "a\tb\nc\rd\be\fg\vh\\i", "größe 漢字 😀", "x" * 70_000, "null", "\x01\x7f", "{}",
        '"',
    ],
    "varchar(5)": ["", "ab  ", "漢字😀é"],
    "varchar": ["x" * 5000],
    "character(5)": ["", "ab", "😀"],
    "bpchar": ["ab  ", ""],
    "json": ['{"a":1,"a":2}', "null", " [1,  2] ", "1e999", '"\\u0041"', str(10**200), '{"b": 1, "a": 2}'],
    "jsonb": ['{"a":1,"a":2}', "null", "[1, 2]", "1E400", str(10**200), '"\\ud83d\\ude00"', "-0.0"],
    "jsonpath": ['$."a"[*] ? (@ > 1)'],
    "uuid": ["00000000-0000-0000-0000-000000000000", "FFFFFFFF-ffff-ffff-ffff-ffffffffffff"],
    "inet": ["0.0.0.0/0", "255.255.255.255", "::ffff:1.2.3.4/128", "::", "fe80::1/64", "10.1.2.3/8"],
    "cidr": ["10.0.0.0/8", "::/0", "1.2.3.4/32"],
    "macaddr": ["08:00:2b:01:02:03"],
    "macaddr8": ["08:00:2b:01:02:03:04:05"],
    "bit(3)": ["101", "000"],
    "bit(1)": ["1"],
    "bit varying(9)": ["", "1", "101010101"],
    "bit varying": ["", "1" * 300],
    "point": ["(1.5,-0)", "(NaN,Infinity)", "(1e-300,1e300)"],
    "line": ["{1,-1,0.1}"],
    "lseg": ["[(0,0),(1e23,6)]"],
    "box": ["(3,4),(1,2)"],
    "path": ["[(0,0),(1,1)]", "((0,0),(1,1))"],
    "polygon": ["((0,0),(1,1),(0,1))"],
    "circle": ["<(0,0),1.1>"],
    "tsvector": ["'a':1A,3 'b c' 'd''e':16383D", ""],
    "tsquery": ["'a' & !'b' | 'c' <-> 'd':AB*", ""],
    "int4range": ["empty", "(,)", "[1,10)", "[-2147483648,)"],
    "int8range": ["[-9223372036854775808,9223372036854775807)"],
    "numrange": ["(1.10,NaN)", "[,1e-20]"],
    "daterange": ["[-infinity,infinity]", "[0044-03-15 BC,2024-01-01)"],
    "tsrange": ['["4714-11-24 00:00:00 BC",infinity)', "empty"],
    "tstzrange": ['["2024-01-01 00:00:00+05",)'],
    "int4multirange": ["{}", "{(,1),[3,5),[7,)}"],
    "int8multirange": ["{[-9223372036854775808,9223372036854775807)}"],
    "datemultirange": ["{[-infinity,infinity]}"],
    "tsmultirange": ['{["4714-11-24 00:00:00 BC",infinity)}'],
    "odd.floats_multirange": ["{[-0,1e23)}"],
    "nummultirange": ["{[1.1,2.2),(3,)}"],
    "tstzmultirange": ["{[2024-01-01 00:00:00+00,2024-01-02 00:00:00+00)}"],
    "pg_snapshot": ["10:20:10,14,15"],
    "regclass": ["pg_catalog.pg_class", "-", "odd.pair"],
    "txid_snapshot": ["10:20:10,14,15"],
    "regproc": ["pg_catalog.now"],
    "regprocedure": ["pg_catalog.abs(integer)"],
    "regoper": ["pg_catalog.||/"],
    "regoperator": ["+(integer,integer)"],
    "regconfig": ["pg_catalog.simple"],
    "regdictionary": ["pg_catalog.simple"],
    "regcollation": ['"C"'],
    "regnamespace": ["pg_catalog", "odd"],
    "regrole": ["postgres", "-"],
    "pg_shseclabel": ['(4294967295,0,"a b",)'],
    "pg_class[]": ["{NULL}"],
    "information_schema.sql_identifier": ["a b"],
    "aclitem": ["=r/postgres", "postgres=arwdDxt*/postgres"],
    "refcursor": ["<unnamed portal 1>", ""],
    "regtype": ["odd.mood", "timestamp with time zone[]"],
    "int2vector": ["1 2 3", ""],
    "oidvector": ["4294967295 0"],
    "integer[]": ["{}", "{1,NULL,3}", "{{1,2},{3,4}}", "[0:1]={1,2}", "[-2:-1][5:6]={{1,2},{3,4}}", "{NULL}"],
    "text[]": ["{}", '{"",NULL,"NULL",null,"a\\"b","c\\\\d"," e ","{f}","g,h"}', '{{"漢","😀"}}'],
    "numeric(10,2)[]": ["{1.10,NaN,NULL}"],
    "double precision[]": ["{NaN,-0,5e-324,1e23,Infinity}"],
    "timestamptz[]": ['{infinity,"0044-03-15 12:00:00+00 BC",NULL}'],
    "bytea[]": ['{"\\\\x00ff",NULL}'],
    "varchar(3)[]": ["{abc,NULL}"],
    "interval[]": ['{"1 mon -1 days",NULL}'],
    "boolean[]": ["{t,f,NULL}"],
    "jsonb[]": ['{"{\\"a\\": [1, null]}",NULL}'],
    "odd.mood": ["sad", 'it\'s "ok"', "ha,ppy", "", "😀"],
    "odd.mood[]": ['{sad,"it\'s \\"ok\\"",""}'],
    "odd.pair": ["(1,)", '(,"a ""b"", (c)")', "(,)"],
    "odd.pair[]": ['{"(1,\\"x y\\")",NULL}'],
    "odd.nested": ['("(1,""x, y"")","{""infinity"",NULL}",-0)'],
    "odd.positive": ["1", "2147483647"],
    "odd.tags": ["{a,NULL}"],
    "odd.floats": ["[-0,1e23)"],
    "public.citext": ["Groß", ""],
    "public.hstore": ['"a"=>"1", "b c"=>NULL, "d"=>"\\"q\\""', ""],
    "public.lquery": ["Top.*{,3}.Sc*@|b%"],
    "public.ltxtquery": ["Europe & Russia*@ & !Transportation"],
    "public.ltree": ["Top.Science", ""],
}  # fmt: skip

CONTRIB: Final[dict[str, dict[str, list[str]]]] = {
    "cube": {"cube": ["(1,2),(3,4.5)", "()", "(NaN)", "(1e-300,-0)"]},
    "earthdistance": {"earth": ["(6378168,0,0)"]},
    "intarray": {"query_int": ["1&(2|!3)"]},
    "isn": {
        "ean13": ["9780393040029"], "isbn13": ["9780393040029"], "ismn13": ["9790260000438"],
        "issn13": ["9771436452008"], "isbn": ["039304002X"], "ismn": ["M260000438"], "issn": ["14364522"],
        "upc": ["220356483481"],
    },
    "lo": {"lo": ["4294967295"]},
    "seg": {"seg": ["<1.50", "1.0 .. 2.000", "~ 5", "2.5(+-)0.5"]},
    "vector": {
        "vector": ["[1,-0,1e-38,3.4e38]"], "vector(3)": ["[1,2,3]"], "halfvec": ["[65504,-0,6e-8]"],
        "sparsevec": ["{1:1.5,16000:-2}/16000"],
    },
}  # fmt: skip

ROWS: Final = max(map(len, VALUES.values())) + 1
