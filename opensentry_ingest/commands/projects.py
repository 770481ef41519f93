"""`project` and `key`: what events belong to, and the keys that clients send."""

import argparse

from opensentry_ingest import admin
from opensentry_ingest.commands import shared


def add_parsers(commands: shared.Commands) -> None:
    actions = commands.add_parser("project", help="create and list projects").add_subparsers(
        required=True, metavar="ACTION"
    )
    command = shared.add_json_option(actions.add_parser("create", help="create a project with a key"))
    command.add_argument("name", metavar="NAME")
    command.set_defaults(run=_project_create)
    command = shared.add_json_option(actions.add_parser("list", help="list the projects"))
    command.set_defaults(run=_project_list)

    actions = commands.add_parser("key", help="create, list and revoke keys").add_subparsers(
        required=True, metavar="ACTION"
    )
    command = shared.add_json_option(actions.add_parser("create", help="create another key for a project"))
    command.add_argument("project", metavar="PROJECT", help="name or id")
    command.set_defaults(run=_key_create)
    command = shared.add_json_option(actions.add_parser("list", help="list the keys of a project"))
    command.add_argument("project", metavar="PROJECT", help="name or id")
    command.set_defaults(run=_key_list)
    command = shared.add_json_option(
        actions.add_parser("revoke", help="make a key invalid, immediately and permanently")
    )
    command.add_argument("public_key", metavar="PUBLIC_KEY")
    command.set_defaults(run=_key_revoke)


def _project_create(arguments: argparse.Namespace) -> int:
    with shared.connect() as connection:
        return shared.print_records(_with_dsn(admin.create_project(connection, arguments.name)), arguments.json)


def _project_list(arguments: argparse.Namespace) -> int:
    with shared.connect() as connection:
        return shared.print_records([_with_dsn(project) for project in admin.projects(connection)], arguments.json)


def _key_create(arguments: argparse.Namespace) -> int:
    with shared.connect() as connection:
        return shared.print_records(_with_dsn(admin.create_key(connection, arguments.project)), arguments.json)


def _key_list(arguments: argparse.Namespace) -> int:
    with shared.connect() as connection:
        keys = admin.keys(connection, arguments.project)
    return shared.print_records([_with_dsn(key) for key in keys], arguments.json)


def _key_revoke(arguments: argparse.Namespace) -> int:
    with shared.connect() as connection:
        return shared.print_records(admin.revoke_key(connection, arguments.public_key), arguments.json)


def _with_dsn(record: admin.Record) -> admin.Record:
    """Add where clients of each protocol send to; the last two are OTEL_EXPORTER_OTLP_ENDPOINT and _HEADERS."""
    public_key = record["public_key"]
    if not public_key or record.get("revoked_at"):
        return {**record, **dict.fromkeys(("dsn", "sentry_dsn", "otlp_endpoint", "otlp_headers"))}
    public_url = shared.load_settings().public_url
    return {
        **record,
        "dsn": admin.dsn(public_url, public_key),
        "sentry_dsn": admin.sentry_dsn(public_url, public_key),
        "otlp_endpoint": admin.otlp_endpoint(public_url),
        "otlp_headers": f"x-open-sentry-key={public_key}",
    }
