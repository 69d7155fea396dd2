// Calls of the local server. Every one carries the token that only this page knows.

const token = document.querySelector("meta[name=token]").content;
const KINDS = { float64: Float64Array, float32: Float32Array, int32: Int32Array, uint8: Uint8Array };

export class Refused extends Error {}

async function call(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, { ...options, headers: { "X-Insideout-Token": token, ...options.headers } });
  } catch {
    throw new Refused("The viewer does not answer: is `insideout view` still running?");
  }
  if (!answer.ok) {
    const told = await answer.json().catch(() => ({}));
    const why = typeof told.error === "string" ? told.error : "";
    throw new Refused(why || `The viewer refuses (${answer.status}): reload, or open the address that it printed.`);
  }
  return answer;
}

export async function get(path) {
  return (await call(path)).json();
}

export async function post(path, value) {
  const options = { method: "POST", body: JSON.stringify(value), headers: { "Content-Type": "application/json" } };
  return (await call(path, options)).json();
}

// Columns of numbers as insideout/view/columns.py packs them: views of the answer, nothing is copied.
export async function columns(path) {
  const answer = await call(path);
  const buffer = await answer.arrayBuffer();
  const size = new DataView(buffer).getUint32(0, true);
  let at = 4 + size;
  const found = { headers: answer.headers };
  for (const [name, kind, length] of JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, size)))) {
    found[name] = new KINDS[kind](buffer, at, length);
    at += Math.ceil(found[name].byteLength / 8) * 8;
  }
  return found;
}
