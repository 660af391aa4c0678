// The model: it takes a raw example and returns one number for each output.

// Browsers round times to 0.1 ms or more, so a small model is run several times.
const LONG_ENOUGH_MS = 5, MOST_RUNS = 100;
const RUNTIME = "./node_modules/@litertjs/core/wasm/";

export async function openModel() {
  const about = await (await fetch("model.json")).json();
  let litert;
  try {
    litert = await import("@litertjs/core");
    await litert.loadLiteRt(RUNTIME);
  } catch (error) {
    throw new Error("The runtime was not loaded. If it is missing, run this in the folder:\n\nnpm install @litertjs/core\n\n" + error.message);
  }
  const model = await litert.loadAndCompile(about.file, { accelerator: "wasm" });
  const Values = about.dtype === "uint8" ? Uint8Array : Float32Array;

  // Takes an array of about.shape, flat; returns the outputs and the mean milliseconds of a few runs.
  async function run(values) {
    const input = new litert.Tensor(Values.from(values), [1, ...about.shape]);
    const began = performance.now();
    let outputs, count = 0;
    do {
      const [output] = await model.run(input);
      outputs = Float32Array.from(await output.data());
      output.delete();
      count += 1;
    } while (performance.now() - began < LONG_ENOUGH_MS && count < MOST_RUNS);
    const milliseconds = (performance.now() - began) / count;
    input.delete();
    return { outputs, milliseconds };
  }
  return { about, run };
}

// Outputs as fractions that sum to 1, for the bars.
export function toFractions(outputs, kind) {
  if (kind !== "logits") return Array.from(outputs);
  const largest = Math.max(...outputs);
  const powers = Array.from(outputs, (value) => Math.exp(value - largest));
  const total = powers.reduce((sum, value) => sum + value, 0);
  return powers.map((value) => value / total);
}
