"""The viewer behind the logins of `docs/embedding.md`, unchanged."""

import re
import subprocess
import sys
import urllib.parse
import urllib.request
from http.cookiejar import CookieJar
from pathlib import Path
from urllib.error import HTTPError

import pytest

from tests import support
from tests.servers.examples import PAGE, command_of, running, write_example
from tests.support import Database

OURS = {"Sec-Fetch-Site": "same-origin"}

STAFF = """
from django.contrib.auth import get_user_model
get_user_model().objects.create_superuser("admin", "a@example.com", "secret")
"""


class Browser:
    """Follows redirects, and keeps cookies."""

    def __init__(self) -> None:
        self._opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))

    def open(self, url: str, form: dict[str, str] | None = None, **headers: str) -> tuple[int, str, str]:
        """Return the status, the final URL and the text."""
        data = urllib.parse.urlencode(form).encode() if form else None
        request = urllib.request.Request(url, data, headers)
        try:
            with self._opener.open(request, timeout=30) as response:
                return response.status, response.url, response.read().decode()
        except HTTPError as error:
            return error.code, error.url or "", error.read().decode()


@pytest.fixture
def issue(shop_database: Database) -> str:
    """The fingerprint of an issue."""
    shop_database.fetch(
        "SELECT opensentry.ingest(%s, gen_random_uuid(), %s)",
        shop_database.key,
        '{"type": "error", "exception": {"type": "Shown"}}',
    )
    return str(shop_database.fetch("SELECT fingerprint FROM opensentry.issues WHERE title = 'Shown'")[0]["fingerprint"])


def check(browser: Browser, url: str, issue: str, database: Database) -> None:
    """Check that whoever has logged in sees an issue and resolves it."""
    status, _, text = browser.open(f"{url}/errors/issues")
    assert (status, "Shown" in text) == (200, True)
    assert f'href="/errors/issues/{issue}"' in text
    stylesheet = re.findall(r'href="(/errors/static/[^"]+)"', text)[0]
    assert browser.open(url + stylesheet)[0] == 200
    action, form = f"{url}/errors/issues/{issue}/status", {"status": "resolved", "back": "/issues"}
    assert browser.open(action, form)[0] == 403
    assert browser.open(action, form, **OURS)[:2] == (200, f"{url}/errors/issues")
    assert database.fetch("SELECT status FROM opensentry.issues WHERE title = 'Shown'") == [{"status": "resolved"}]
    assert browser.open(f"{url}/errors/issues/nothing")[0] == 404


def test_flask(shop_database: Database, issue: str, tmp_path: Path) -> None:
    write_example("The viewer in Flask", tmp_path, shop_database.owner)
    port = support.free_port()
    with running([*command_of("gunicorn", port)[:-1], "--no-control-socket", "app"], port, tmp_path) as url:
        browser = Browser()
        assert browser.open(f"{url}/errors/issues")[1] == f"{url}/login"
        browser.open(f"{url}/login", {"password": "secret"})
        check(browser, url, issue, shop_database)


def test_django(shop_database: Database, issue: str, tmp_path: Path) -> None:
    def run(*command: str) -> None:
        subprocess.run([sys.executable, *command], cwd=tmp_path, check=True, capture_output=True)

    run("-m", "django", "startproject", "shop", ".")
    write_example("The viewer in Django", tmp_path, shop_database.owner)
    run("manage.py", "migrate")
    run("manage.py", "shell", "-c", STAFF)
    port = support.free_port()
    with running([*command_of("gunicorn", port)[:-1], "--no-control-socket", "shop.wsgi"], port, tmp_path) as url:
        browser = Browser()
        _, login, text = browser.open(f"{url}/errors/issues")
        assert login.startswith(f"{url}/admin/login/")
        (token,) = re.findall(r'name="csrfmiddlewaretoken" value="(\w+)"', text)
        browser.open(login, {"csrfmiddlewaretoken": token, "username": "admin", "password": "secret"})
        check(browser, url, issue, shop_database)


NGINX = """
pid {folder}/nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    server {{
        listen 127.0.0.1:{port};
        {page}
    }}
    server {{
        listen 127.0.0.1:{application};
        location / {{
            if ($http_x_staff) {{
                return 200;
            }}
            return 401;
        }}
    }}
}}
"""


def test_nginx(shop_database: Database, issue: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port, viewer, application = support.free_port(), support.free_port(), support.free_port()
    (page,) = re.findall(r"^```nginx\n(location = /auth.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    page = page.replace("127.0.0.1:3002", f"127.0.0.1:{viewer}").replace("127.0.0.1:8000", f"127.0.0.1:{application}")
    config = tmp_path / "nginx.conf"
    config.write_text(NGINX.format(folder=tmp_path, port=port, application=application, page=page))
    command = [sys.executable, "-m", "opensentry_ingest", "view", "--port", str(viewer)]
    environ = {"DATABASE_URL": shop_database.owner, "OPENSENTRY_VIEWER_PASSWORD": "secret"}
    (tmp_path / "viewer").mkdir()
    with (
        running(
            ["env", *(f"{name}={value}" for name, value in environ.items()), *command], viewer, tmp_path / "viewer"
        ),
        running([support.tool("nginx"), "-g", "daemon off;", "-c", str(config)], port, tmp_path) as url,
    ):
        browser = Browser()
        assert browser.open(f"{url}/errors/issues")[0] == 401
        assert browser.open(f"http://127.0.0.1:{viewer}/issues")[0] == 401
        browser._opener.addheaders.append(("X-Staff", "yes"))
        check(browser, url, issue, shop_database)
