// The page: an image is dropped, chosen or drawn, or numbers are typed; the five most likely classes are shown.

import { openModel, toFractions } from "./model.js";

const byId = (name) => document.getElementById(name);
const LIKELY = 5, LARGEST_DRAWING = 64;

function show(problem) {
  byId("problem").textContent = problem.message;
  byId("problem").hidden = false;
}

async function start() {
  const model = await openModel();
  const { about } = model;
  document.title = byId("name").textContent = about.name;
  byId("about").textContent = "input " + about.shape.join("×") + " " + about.dtype + ", file " + about.bytes.toLocaleString("en") + " bytes";
  const classify = async (values) => {
    try {
      const { outputs, milliseconds } = await model.run(values);
      byId("problem").hidden = true;
      fill(outputs, about);
      byId("latency").textContent = milliseconds.toFixed(2) + " ms in this browser";
    } catch (error) {
      show(error);
    }
  };
  if (about.image) makeImageInput(about, classify);
  else makeNumberInput(about, classify);
  document.querySelector("main").hidden = false;
}

function fill(outputs, about) {
  const fractions = about.outputs === "values" ? null : toFractions(outputs, about.outputs);
  const order = Array.from(outputs.keys());
  if (fractions) order.sort((a, b) => fractions[b] - fractions[a]);
  byId("classes").replaceChildren(...order.slice(0, fractions ? LIKELY : order.length).map((number) => {
    const item = document.createElement("li"), line = document.createElement("div"), bar = document.createElement("div");
    const name = document.createElement("span"), value = document.createElement("span");
    name.textContent = about.labels[number] ?? String(number);
    value.textContent = fractions ? (100 * fractions[number]).toFixed(1) + "%" : outputs[number].toPrecision(5);
    line.append(name, value);
    item.append(line);
    if (fractions) {
      bar.className = "bar";
      bar.style.width = 100 * fractions[number] + "%";
      item.append(bar);
    }
    return item;
  }));
}

function makeImageInput(about, classify) {
  const [height, width, channels = 1] = about.shape;
  const canvas = document.createElement("canvas"), label = document.createElement("label");
  canvas.width = width;
  canvas.height = height;
  canvas.style.aspectRatio = width + " / " + height;
  canvas.setAttribute("aria-label", "The image as the model sees it");
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const file = document.createElement("input"), text = document.createElement("span");
  file.type = "file";
  file.accept = "image/*";
  text.textContent = "Choose an image";
  label.className = "button";
  label.append(file, text);
  const box = byId("drop"), hint = document.createElement("p");
  hint.textContent = "or drop one here";
  box.append(canvas, label, hint);

  const read = () => {
    const pixels = context.getImageData(0, 0, width, height).data, values = [];
    for (let at = 0; at < pixels.length; at += 4) {
      const [red, green, blue] = [pixels[at], pixels[at + 1], pixels[at + 2]];
      if (channels === 1) values.push(Math.round(0.299 * red + 0.587 * green + 0.114 * blue));
      else values.push(red, green, blue);
    }
    return classify(values);
  };
  const open = async (source) => {
    if (!source) return;
    try {
      const image = await createImageBitmap(source);
      const fill = about.fit === "crop" ? Math.max : about.fit === "pad" ? Math.min : null;
      const scale = fill && fill(width / image.width, height / image.height);
      const [w, h] = fill ? [image.width * scale, image.height * scale] : [width, height];
      context.fillStyle = "black";
      context.fillRect(0, 0, width, height);
      context.imageSmoothingQuality = "high";
      context.drawImage(image, (width - w) / 2, (height - h) / 2, w, h);
      await read();
    } catch (error) {
      show(new Error("This browser cannot open " + source.name + " as an image"));
    }
  };
  file.addEventListener("change", () => open(file.files[0]));
  box.addEventListener("dragover", (event) => { event.preventDefault(); box.classList.add("over"); });
  box.addEventListener("dragleave", () => box.classList.remove("over"));
  box.addEventListener("drop", (event) => {
    event.preventDefault();
    box.classList.remove("over");
    open(event.dataTransfer.files[0]);
  });
  if (channels === 1 && Math.max(width, height) <= LARGEST_DRAWING) addDrawing(canvas, context, box, read);
  context.fillRect(0, 0, width, height);
}

function addDrawing(canvas, context, box, read) {
  const clear = document.createElement("button"), hint = document.createElement("p");
  clear.textContent = "Clear";
  hint.textContent = "or draw on the black square";
  box.append(hint, clear);
  const size = Math.max(canvas.width, canvas.height) / 12;
  let last = null;
  const place = (event) => {
    const bounds = canvas.getBoundingClientRect();
    return [(event.clientX - bounds.left) / bounds.width * canvas.width,
      (event.clientY - bounds.top) / bounds.height * canvas.height];
  };
  canvas.addEventListener("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId); last = place(event); });
  canvas.addEventListener("pointermove", (event) => {
    if (!last) return;
    const next = place(event);
    context.strokeStyle = "white";
    context.lineWidth = Math.max(1, size);
    context.lineCap = "round";
    context.beginPath();
    context.moveTo(...last);
    context.lineTo(...next);
    context.stroke();
    last = next;
    read();
  });
  canvas.addEventListener("pointerup", () => { last = null; });
  clear.addEventListener("click", () => {
    context.fillStyle = "black";
    context.fillRect(0, 0, canvas.width, canvas.height);
    read();
  });
}

function makeNumberInput(about, classify) {
  const count = about.shape.reduce((product, side) => product * side, 1);
  const text = document.createElement("textarea"), run = document.createElement("button");
  text.setAttribute("aria-label", count + " numbers");
  text.value = JSON.stringify(Array(count).fill(0));
  run.textContent = "Run";
  byId("drop").append(text, run);
  run.addEventListener("click", () => {
    const values = text.value.split(/[\s,;[\]]+/).filter(Boolean).map(Number);
    if (values.length !== count || values.some(Number.isNaN)) show(new Error("The model takes " + count + " numbers"));
    else classify(values);
  });
}

if (location.protocol !== "file:") start().catch(show);
