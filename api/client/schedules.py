"""The calls of SecateurClient for schedules and aliases."""

from collections.abc import Iterator, Mapping

from api.client.connection import Connection, paged, pages, safe
from api.service.schedules.request import ScheduleRequest
from api.service.schedules.views import (
    AliasList,
    AliasView,
    FiringList,
    FiringView,
    ScheduleList,
    ScheduleView,
    UnreadSchedule,
)


class ScheduleCalls(Connection):
    """Calls for schedules and aliases. A schedule is given by its id or its name."""

    def create_schedule(self, request: ScheduleRequest | Mapping[str, object]) -> ScheduleView:
        """POST /schedules."""
        return self._fetch("POST", "/schedules", ScheduleView, json=request)

    def schedules(self, *, page: int = 100) -> Iterator[ScheduleView]:
        """All schedules, newest first. Pages are fetched as the iterator needs them."""
        return paged(
            lambda params: self._fetch("GET", "/schedules", ScheduleList, params=params), {"limit": page}
        )

    def unread_schedules(self, *, page: int = 100) -> Iterator[UnreadSchedule]:
        """The schedules that another version of Secateur stored and the service does not understand."""
        fetched = pages(
            lambda params: self._fetch("GET", "/schedules", ScheduleList, params=params), {"limit": page}
        )
        return (one for part in fetched for one in part.unread)

    def schedule(self, schedule: str) -> ScheduleView:
        """GET /schedules/{id}."""
        return self._fetch("GET", _path(schedule), ScheduleView)

    def change_schedule(self, schedule: str, changes: Mapping[str, object]) -> ScheduleView:
        """PATCH /schedules/{id}: each given field replaces the old one as a whole."""
        return self._fetch("PATCH", _path(schedule), ScheduleView, json=changes)

    def delete_schedule(self, schedule: str) -> None:
        """DELETE /schedules/{id}: deletes it with its history; its jobs and its alias stay."""
        self._call("DELETE", _path(schedule))

    def pause_schedule(self, schedule: str) -> ScheduleView:
        """POST /schedules/{id}/pause."""
        return self._fetch("POST", f"{_path(schedule)}/pause", ScheduleView)

    def resume_schedule(self, schedule: str) -> ScheduleView:
        """POST /schedules/{id}/resume."""
        return self._fetch("POST", f"{_path(schedule)}/resume", ScheduleView)

    def run_schedule(self, schedule: str) -> tuple[FiringView, ...]:
        """POST /schedules/{id}/run: the new firings; none when there is no new checkpoint."""
        return self._fetch("POST", f"{_path(schedule)}/run", FiringList).data

    def firings(self, schedule: str, *, outcome: str | None = None, page: int = 100) -> Iterator[FiringView]:
        """All firings of a schedule, newest first. Pages are fetched as the iterator needs them."""
        path = f"{_path(schedule)}/firings"
        given = {"outcome": outcome, "limit": page}
        return paged(lambda params: self._fetch("GET", path, FiringList, params=params), given)

    def aliases(self) -> tuple[AliasView, ...]:
        """GET /aliases: all aliases, by name."""
        return self._fetch("GET", "/aliases", AliasList).data

    def alias(self, name: str) -> AliasView:
        """GET /aliases/{name}."""
        return self._fetch("GET", f"/aliases/{safe(name)}", AliasView)


def _path(schedule: str) -> str:
    return f"/schedules/{safe(schedule)}"
