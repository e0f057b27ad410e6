"""``deltafleet keys``: make the signing keys, look at them, and write the roots that vehicles embed.

A refusal leaves these functions as the exception that it is; the program's entry point prints it and exits with 1.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from model_registry.contract.errors import Refusal

if TYPE_CHECKING:
    from datetime import datetime

    from model_registry.trust.keys import Keyring, Role

# What signs is imported inside the commands: the program's help must not wait for cryptography.

keys_app = typer.Typer(no_args_is_help=True, help="Make and show the signing keys; write the roots that vehicles embed.")
KeyDirectory = Annotated[Path, typer.Argument(metavar="DIR", help="The key directory.", file_okay=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@keys_app.command()
def init(
    directory: KeyDirectory,
    key_type: Annotated[
        Literal["ed25519", "p256"], typer.Option("--type", help="Ed25519, or P-256 as cloud KMS and PKCS#11 offer it.")
    ] = "ed25519",
) -> None:
    """Make a key for every role that has none, and sign the two roots.

    Keys that exist are never replaced, so the command can be repeated: it completes what an interrupted run left, and renews
    roots that near their expiry. Move root.pem, director-root.pem, targets.pem and family.pem to a safe place afterwards; the
    registry runs without them until a root is renewed, a family is added or a release is signed.
    """
    from model_registry.trust.keys import Keyring, KeyType, init_keys
    from model_registry.trust.roots import Repository, root_chain
    from model_registry.trust.signing import utc_now

    made = init_keys(directory, key_type=KeyType(key_type))
    keyring = Keyring.load(directory)
    chains = {repository: root_chain(keyring, repository, utc_now()) for repository in Repository}
    if made.created and made.kept:
        typer.echo(f"completed {directory}: kept the keys of {_words(made.kept)}")
    if made.created:
        typer.echo(f"made {key_type} keys for {_words(made.created)}")
    else:
        typer.echo(f"every role has its key in {directory} already; nothing was made")
    for repository, chain in chains.items():
        typer.echo(f"{repository.value} root: version {len(chain)}")


@keys_app.command()
def show(directory: KeyDirectory, as_json: AsJson = False) -> None:
    """Show each role's key, where its private part is, and until when the roots are valid."""
    from model_registry.trust.keys import Keyring, Role

    keyring = Keyring.load(directory)
    roles = [_role_row(keyring, role) for role in Role]
    roots = _root_rows(directory)
    if as_json:
        typer.echo(json.dumps({"roles": roles, "roots": roots}))
        return
    for row in roles:
        where = ", ".join(row["uris"])
        here = "here" if row["can_sign"] else "not here"
        typer.echo(f"{row['role']:<20} {', '.join(row['keyids'])}  {row['scheme']:<20} {where} ({here})")
    for root in roots:
        typer.echo(f"{root['repository']} root: version {root['version']}, expires {root['expires']}")


@keys_app.command()
def roots(
    directory: KeyDirectory,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="Folder to write into.", file_okay=False)],
) -> None:
    """Write image-root.json and director-root.json, the roots that a vehicle is given when its agent is installed."""
    from model_registry.trust.keys import Keyring
    from model_registry.trust.roots import Repository, root_chain
    from model_registry.trust.signing import utc_now

    keyring = Keyring.load(directory)
    chains = {repository: root_chain(keyring, repository, utc_now()) for repository in Repository}
    try:
        output.mkdir(parents=True, exist_ok=True)
        for repository, chain in chains.items():
            path = output / f"{repository.value}-root.json"
            path.write_bytes(chain[-1])
            typer.echo(path)
    except OSError as exc:
        raise Refusal(f"{output} cannot be written: {exc.strerror}", remedy="name a folder of your own") from exc


def _role_row(keyring: Keyring, role: Role) -> dict[str, Any]:
    keys = keyring.role_keys(role)
    return {
        "role": role.value,
        "threshold": keys.threshold,
        "keyids": [key.public.keyid for key in keys.keys],
        "scheme": keys.keys[0].public.scheme,
        "uris": [key.uri for key in keys.keys],
        "can_sign": keyring.can_sign(role),
    }


def _root_rows(directory: Path) -> list[dict[str, Any]]:
    from model_registry.trust.roots import Repository, parse_root, read_chain

    rows = []
    for repository in Repository:
        for data in read_chain(directory, repository)[-1:]:
            root = parse_root(data)
            rows.append({"repository": repository.value, "version": root.version, "expires": _day(root.expires)})
    return rows


def _day(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _words(roles: tuple[Role, ...]) -> str:
    return ", ".join(role.value for role in roles)
