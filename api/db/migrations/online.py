"""Changes of a large table that do not stop those who use it."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext

import sqlalchemy as sa
from alembic import op


def make_index(name: str, table: str, columns: Sequence[str], *, where: str | Mapping[str, str] = "") -> None:
    """Makes an index; on PostgreSQL while others write. `where`: its predicate, or one for each database.

    PostgreSQL commits before it begins. So a migration makes its indexes first, and one that was interrupted
    can be run again: an index that was left half made is dropped.
    """
    postgresql = op.get_bind().dialect.name == "postgresql"
    said = where if isinstance(where, str) else where[op.get_bind().dialect.name]
    predicate = sa.text(said) if said else None
    with op.get_context().autocommit_block() if postgresql else nullcontext():
        if postgresql:
            op.drop_index(name, table_name=table, if_exists=True, postgresql_concurrently=True)
        op.create_index(
            name,
            table,
            list(columns),
            postgresql_where=predicate,
            sqlite_where=predicate,
            postgresql_concurrently=True,
        )
