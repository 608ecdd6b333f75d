"""Steps of following a schema change as SQL."""

from __future__ import annotations

from psycopg import sql

from schemas.ddl.step import Literal, Name, Piece, Since, Step


def statement(step: Step) -> sql.Composed:
    """The step's statement, without a semicolon; empty where it has none."""
    return sql.Composed([_piece(piece) for piece in step.statement])


def shown(step: Step) -> str:
    """For people, and to be run by them."""
    if not step.statement:
        return f"-- {step.manner.value}: {step.shown}"
    text = f"{statement(step).as_string()};"
    return f"{become(step.role).as_string()}; {text} reset role;" if step.role else text


def become(role: str) -> sql.Composed:
    """To run what follows in the transaction as this role."""
    return sql.SQL("set local role {}").format(sql.Identifier(role))


def _piece(piece: Piece) -> sql.Composable:
    if isinstance(piece, Name):
        return sql.Identifier(*piece.parts)
    if isinstance(piece, Literal):
        return sql.Literal(piece.text)
    if isinstance(piece, Since):
        return sql.Composed([_piece(each) for each in piece.pieces])
    return sql.SQL(piece)  # from a fixed list, or as PostgreSQL wrote it
