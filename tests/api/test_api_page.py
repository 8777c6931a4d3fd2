"""The API's page in a browser, in a network without a way out."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from urllib.parse import urljoin, urlsplit

import pytest

from .conftest import Quern, Start


class Named(HTMLParser):
    """The addresses in a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value for name, value in attrs if name in {"href", "src"} and value]


async def test_the_page_and_everything_that_it_names_come_from_the_server_itself(quern: Quern) -> None:
    page = await quern.client.get("/docs")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    description = re.findall(r"url: '([^']*)'", page.text)
    addresses = [*Named(page.text).addresses, *description]
    assert len(addresses) == 4
    for address in addresses:
        url = urljoin(str(page.url), address)
        assert urlsplit(url).netloc == page.url.netloc.decode()
        resource = await quern.client.get(url)
        assert (resource.status_code, len(resource.content) > 500) == (200, True), url
    types = [(await quern.client.get(urljoin(str(page.url), address))).headers["content-type"] for address in addresses]
    assert sorted(kind.partition(";")[0] for kind in types) == [
        "application/json", "image/png", "text/css", "text/javascript",
    ]  # fmt: skip


async def test_the_page_names_no_other_host_and_sends_the_description_nowhere(quern: Quern) -> None:
    page = (await quern.client.get("/docs")).text
    assert re.findall(r"(?:https?:)?//[\w.-]+\.\w+", page) == []
    assert '"validatorUrl": null' in page


async def test_the_style_sheet_needs_nothing_else(quern: Quern) -> None:
    style = (await quern.client.get("/docs/swagger-ui.css")).text
    targets = [target.strip("\"'") for target in re.findall(r"url\(\s*(\S{1,20})", style)]
    assert targets
    assert [target for target in targets if not target.startswith("data:")] == []
    assert "@import" not in style
    assert "sourceMappingURL" not in style


@pytest.mark.parametrize("name", ["swagger-ui-bundle.js", "swagger-ui.css"])
async def test_who_cant_unpack_gets_the_same_unpacked(quern: Quern, name: str) -> None:
    packed = await quern.client.get(f"/docs/{name}", headers={"accept-encoding": "gzip, deflate"})
    plain = await quern.client.get(f"/docs/{name}", headers={"accept-encoding": "identity"})
    assert (packed.headers["content-encoding"], "content-encoding" in plain.headers) == ("gzip", False)
    assert packed.text == plain.text
    assert "swagger" in plain.text


async def test_the_page_works_under_a_prefix_of_a_proxys(quern: Quern) -> None:
    page = (await quern.client.get("/docs")).text
    for address in Named(page).addresses:
        assert urljoin("https://proxy.test/quern/docs", address).startswith("https://proxy.test/quern/docs/")


async def test_the_page_is_there_while_the_model_loads(start: Start) -> None:
    async with start(wait_until_loaded=False) as quern:
        assert (await quern.client.get("/docs")).status_code == 200


@pytest.mark.parametrize("path", ["/redoc", "/docs/oauth2-redirect", "/docs/LICENSE", "/docs/..%2fapi_page.py"])
async def test_no_other_page_and_no_other_file_is_served(quern: Quern, path: str) -> None:
    response = await quern.client.get(path)
    assert response.status_code == 404
    assert set(response.json()) == ({"detail"} if path.startswith("/docs") else {"error"})
