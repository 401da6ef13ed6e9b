"""Validate the JSON on standard input against a CycloneDX schema.

The one argument is the folder with the schemas. Debian: python3-jsonschema.
"""
import json
import os
import sys

import jsonschema


def tuples(node):
    """Say "no additional items" as "at most so many items", which is the same.

    Debian 12's jsonschema 4.10 fails while it words the message for the former.
    """
    if isinstance(node, dict):
        if isinstance(node.get("items"), list) and node.pop("additionalItems", None) is False:
            node["maxItems"] = min(node.get("maxItems", len(node["items"])), len(node["items"]))
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            tuples(child)


def schema(name):
    with open(os.path.join(sys.argv[1], name)) as f:
        s = json.load(f)
    tuples(s)
    return s


main = schema("bom-1.6.schema.json")
store = {}
for name in ("spdx.schema.json", "jsf-0.82.schemax.json"):
    # References are relative to the main schema's own address.
    store["http://cyclonedx.org/schema/" + name.replace("schemax", "schema")] = schema(name)
resolver = jsonschema.RefResolver.from_schema(main, store=store)
checker = jsonschema.FormatChecker()
errors = list(jsonschema.Draft7Validator(main, resolver=resolver, format_checker=checker).iter_errors(json.load(sys.stdin)))
for e in errors:
    print("/".join(map(str, e.absolute_path)), ":", e.message)
sys.exit(bool(errors))
