// Runs the vectors through three validators, against the files and against the bundle, and prints JSON:
// {"NAME": {"verdicts": N, "wrong": ["FILE: DESCRIPTION"]}}
import { readFileSync, readdirSync } from "node:fs";
import Ajv2020 from "ajv/dist/2020.js";
import { Validator } from "@cfworker/json-schema";
import { registerSchema, validate } from "@hyperjump/json-schema/draft-2020-12";

const folder = process.argv[2];
const read = (path) => JSON.parse(readFileSync(`${folder}/${path}`, "utf8"));
const schemas = readdirSync(folder).filter((name) => name.endsWith(".json")).map((name) => [name, read(name)]);
const files = schemas.filter(([name, schema]) => schema.$id === name);
const bundle = read("ingest.bundle.json");
const groups = readdirSync(`${folder}/vectors`).flatMap((name) => read(`vectors/${name}`));
const BASE = "https://schemas.invalid/";

// Each validator takes the name of a file and returns a check against that file or against the bundle.
const title = (name) => files.find(([file]) => file === name)[1].title;

function ajv() {
  const ajv = new Ajv2020({ strict: true, allErrors: true });
  for (const [, schema] of files) ajv.addSchema(schema);
  ajv.addSchema(bundle, "bundle");
  return {
    file: (name) => ajv.compile({ $ref: name }),
    bundle: (name) => ajv.compile({ $ref: `bundle#/$defs/${title(name)}` }),
  };
}

function cfworker() {
  const make = (root, more) => {
    const validator = new Validator(root, "2020-12");
    for (const schema of more) validator.addSchema(schema);
    return (data) => validator.validate(data).valid;
  };
  return {
    file: (name) => make({ $id: BASE, $ref: name }, files.map(([file, schema]) => ({ ...schema, $id: BASE + file }))),
    bundle: (name) => make({ ...bundle, $ref: `#/$defs/${title(name)}` }, []),
  };
}

async function hyperjump() {
  for (const [name, schema] of files) registerSchema(schema, BASE + name);
  registerSchema(bundle, `${BASE}bundle`);
  const checks = new Map();
  const check = async (uri) => {
    const validator = await validate(uri);
    return (data) => validator(data).valid;
  };
  for (const [name] of files) {
    if (name === "common.json") continue;
    checks.set(name, [await check(BASE + name), await check(`${BASE}bundle#/$defs/${title(name)}`)]);
  }
  return { file: (name) => checks.get(name)[0], bundle: (name) => checks.get(name)[1] };
}

const result = {};
const validators = { ajv: ajv(), "@cfworker/json-schema": cfworker(), "@hyperjump/json-schema": await hyperjump() };
for (const [name, validator] of Object.entries(validators)) {
  const wrong = [];
  let verdicts = 0;
  for (const { description, schema, tests } of groups) {
    for (const form of ["file", "bundle"]) {
      const check = validator[form](schema.$ref);
      for (const test of tests) {
        verdicts += 1;
        if (check(test.data) !== test.valid) wrong.push(`${form} ${schema.$ref}: ${description}: ${test.description}`);
      }
    }
  }
  result[name] = { verdicts, wrong };
}
console.log(JSON.stringify(result));
