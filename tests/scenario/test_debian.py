"""What the wheel's PostgreSQL lacks, on Debian's: xml, ICU's collations, lz4, and TLS from end to end."""

from __future__ import annotations

from tests.fix_debian import Secured, unencrypted_sessions
from tests.scenario.test_types import go_every_way, make_typed

XML = ["<a b='c'>&amp; <![CDATA[<]]></a>", '<?xml version="1.0"?><x/>', "only text", "<ü>😀</ü>"]
COLLATED = """
    create collation loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
    create table word (
        word text collate loose primary key,
        german text collate "de-x-icu" unique,
        body text compression lz4
    )
"""


def test_every_type_of_a_server_that_has_xml_goes_every_way(debian_pipeline: Secured) -> None:
    typed = make_typed(debian_pipeline.pipeline, {"xml": XML, "xml[]": ["{<a/>,NULL}"]})
    typed.pipeline.start("run")
    typed.pipeline.wait()
    here, there = go_every_way(typed)
    assert here == there
    databases = (typed.pipeline.source, typed.pipeline.replica)
    assert [unencrypted_sessions(database) for database in databases] == [0, 0]


def test_keys_that_are_equal_under_icus_collation_only_are_one_row(debian_pipeline: Secured) -> None:
    pipeline = debian_pipeline.pipeline
    source, replica = pipeline.source, pipeline.replica
    source.execute(COLLATED)
    source.execute(
        "insert into word select 'Straße ' || n, 'ä ' || n, repeat('x', 9000) from generate_series(1, 500) n"
    )
    pipeline.start("run")
    pipeline.wait()
    source.execute("update word set word = upper(word) where word like '%7' collate \"C\"")
    source.execute("delete from word where word = 'STRAßE 9' or word = 'sTRAßE 10'")
    source.execute("insert into word values ('straße 10', 'Ä 10', null), ('STRAßE 9', null, 'y')")
    source.execute("update word set german = german || '!', word = lower(word)")
    pipeline.wait()
    content = 'select word, german, md5(body) from word order by word collate "C"'
    assert replica.execute(content) == source.execute(content) != []
    assert pipeline.verify()["identical"] is True


def test_a_server_that_cannot_prove_who_it_is_is_refused(debian_pipeline: Secured) -> None:
    debian_pipeline.trust(debian_pipeline.certificates.other_ca)
    done = debian_pipeline.pipeline.run("check")
    assert done.code == 5
    assert "certificate verify failed" in done.stdout
    assert debian_pipeline.pipeline.source.password not in done.stdout
