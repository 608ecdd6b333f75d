"""Large objects: copied once, not followed, and told of wherever somebody looks."""

from __future__ import annotations

from tests.fix_pipeline import Pipeline


def test_they_are_copied_and_not_followed_and_verify_says_so(directory_pipeline: Pipeline) -> None:
    pipeline = directory_pipeline
    pipeline.source.execute(
        "create table letter (id int primary key, content oid);"
        " insert into letter select i, lo_from_bytea(60000 + i, 'text') from generate_series(1, 3) i"
    )
    checked = " ".join(pipeline.run("check").stdout.split())
    assert "columns that may point to them: public.letter.content" in checked
    pipeline.start("run")
    pipeline.wait()
    found = pipeline.run("verify", "standby", "--large-objects", "--json")
    assert found.code == 0, found.stderr
    assert found.json["large_objects"] == {
        "compared": 3, "differing": 0, "differing_oids": [], "hidden": 0, "followed_after_copy": False,
    }  # fmt: skip

    pipeline.source.execute("select lo_put(60001, 0, 'T'), lo_unlink(60002), lo_create(60004)")
    pipeline.wait()
    said = pipeline.run("verify", "standby")
    assert said.code == 0, said.stderr
    assert (
        "note: 3 large objects of the source were not compared (--large-objects compares them)" in said.stdout
    )
    found = pipeline.run("verify", "standby", "--large-objects")
    assert found.code == 6
    assert "large object 60001: values differ\n" in found.stdout
    assert "large object 60002: only on the replica\n" in found.stdout
    assert "large object 60004: missing on the replica\n" in found.stdout
    assert "large objects: 3 of 4 differ; they are not followed after the first copy\n" in found.stdout
