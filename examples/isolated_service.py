"""A client whose operations cannot take each other's threads, places or share of the rate."""

from __future__ import annotations

from typing import Any

import requests

from pytest_resilience import BulkheadConfig
from pytest_resilience import BulkheadManager
from pytest_resilience import BulkheadType
from pytest_resilience import Clock
from pytest_resilience import SystemClock


class IsolatedServiceClient:
    """A database behind threads, an API behind places, and uploads behind a rate."""

    def __init__(self, base_url: str, *, clock: Clock | None = None) -> None:
        self.base_url = base_url
        self.manager = BulkheadManager(clock=clock or SystemClock())
        self.manager.create_bulkhead(
            "database", BulkheadConfig(4, 8, 30.0, BulkheadType.THREAD_POOL)
        )
        self.manager.create_bulkhead(
            "external_api", BulkheadConfig(2, bulkhead_type=BulkheadType.SEMAPHORE)
        )
        self.manager.create_bulkhead(
            "file_upload",
            BulkheadConfig(5, bulkhead_type=BulkheadType.RATE_LIMIT, window_size=60.0),
        )

    def database_operation(self, query: str) -> Any:
        """A statement, in one of four threads; eight more may wait."""
        return self._execute("database", "GET", f"query?q={query}")

    def external_api_call(self, endpoint: str) -> Any:
        """A call of the API, of which there are never more than two at once."""
        return self._execute("external_api", "GET", endpoint)

    def upload_file(self, file_data: bytes) -> Any:
        """An upload, five a minute."""
        return self._execute("file_upload", "POST", "files", file_data)

    def get_health_status(self) -> dict[str, dict[str, Any]]:
        """What each bulkhead knows."""
        return self.manager.get_all_stats()

    def close(self) -> None:
        """End the threads."""
        self.manager.shutdown_all()

    def _execute(self, bulkhead: str, method: str, path: str, data: bytes | None = None) -> Any:
        return self.manager.get_bulkhead(bulkhead).execute(self._request, method, path, data)

    def _request(self, method: str, path: str, data: bytes | None) -> Any:
        response = requests.request(method, f"{self.base_url}/{path}", data=data, timeout=5)
        response.raise_for_status()
        return response.json()
