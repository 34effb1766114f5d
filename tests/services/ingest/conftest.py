"""Fixtures of the ingest tests: a real endpoint on loopback and a plain HTTP client."""

import aiohttp
import pytest

from tests.services.ingest.support import serving


@pytest.fixture
async def server():
    async with serving() as running:
        yield running


@pytest.fixture
async def http():
    async with aiohttp.ClientSession() as client:
        yield client
