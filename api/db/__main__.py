"""`python -m api.db`: migrate the database that the settings name."""

from api.db.engine import Database
from api.db.migrate import upgrade
from api.settings import Settings

if __name__ == "__main__":
    database = Database(Settings().database_url)
    upgrade(database)
    database.close()
