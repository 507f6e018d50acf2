"use strict";
// Words on patches: one viewer per element .viewer, its data in the JSON inside it.
(() => {
  const HEAT = [[66, 28, 110], [170, 38, 102], [236, 96, 42], [252, 180, 28], [252, 250, 164]];
  const FULL = 2.5; // even shares: a word whose peak is below this does not glow in full
  const make = (tag, text, name) => {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (name) made.className = name;
    return made;
  };
  const round = (x) => Math.round(100 * x) / 100;
  const plain = (x) => (round(x) < 0 ? "\u2212" : "") + Math.abs(x).toFixed(2);
  const signed = (x) => (round(x) > 0 ? "+" : "") + plain(x);
  const percent = (x) => Math.round(100 * x) + " %";

  function heat(x) {
    const at = Math.min(Math.max(x, 0), 1) * (HEAT.length - 1);
    const i = Math.min(Math.floor(at), HEAT.length - 2);
    return HEAT[i].map((c, k) => Math.round(c + (at - i) * (HEAT[i + 1][k] - c)));
  }

  function view(root) {
    const data = JSON.parse(root.querySelector("script").textContent);
    const find = (name) => root.querySelector("." + name);
    const stage = find("stage"), photo = stage.querySelector("img");
    const canvas = stage.querySelector("canvas"), cell = find("cell");
    const [rows, columns] = data.grid;
    const state = { picture: 0, reading: 0, word: null, hover: null, patch: null, aim: [0, 0] };

    const reading = () => data.readings[state.reading];
    const elsewhere = (word) => word.seen.slice(1).reduce((sum, o) => sum + o.score, 0) / (word.seen.length - 1 || 1);
    const apart = (word) => word.seen[0].score - elsewhere(word);
    const shown = (n) => reading().words[n].seen[state.picture];
    const active = () => (state.hover === null ? state.word : state.hover);
    const share = (n, patch) => shown(n).weights[patch];
    const gatherers = (patch) =>
      reading().words.map((w, n) => n).filter((n) => share(n, patch) > 1 / (rows * columns))
        .sort((a, b) => share(b, patch) - share(a, patch));

    function choice(name, legend, labels, key) {
      const box = find(name);
      box.append(make("legend", legend));
      const row = box.appendChild(make("div"));
      labels.forEach((label, n) => {
        const button = row.appendChild(make("button", label));
        button.type = "button";
        button.addEventListener("click", () => {
          state[key] = n;
          if (key === "reading") Object.assign(state, { word: null, hover: null });
          if (key === "reading") words();
          draw();
        });
      });
      box.hidden = labels.length < 2;
      return () => [...row.children].forEach((b, n) => b.setAttribute("aria-pressed", String(n === state[key])));
    }

    function words() {
      const box = find("words");
      box.replaceChildren();
      reading().words.forEach((word, n) => {
        if (word.before) box.append(make("span", word.before, "plain"));
        const button = box.appendChild(make("button", word.text, "word"));
        button.type = "button";
        button.classList.toggle("minor", word.minor);
        if (word.pieces > 1) {
          button.classList.add("pieces");
          button.title = `${word.pieces} pieces: rare in, or absent from, what the tokenizer was trained on`;
        }
        button.append(make("small"));
        button.addEventListener("pointerenter", (e) => { if (e.pointerType === "mouse") { state.hover = n; draw(); } });
        button.addEventListener("pointerleave", () => { if (state.hover !== null) { state.hover = null; draw(); } });
        button.addEventListener("focus", () => { if (button.matches(":focus-visible")) { state.hover = n; draw(); } });
        button.addEventListener("blur", () => { state.hover = null; draw(); });
        button.addEventListener("click", () => {
          state.word = state.word === n ? null : n;
          state.hover = null; state.patch = null;
          draw();
        });
      });
      if (reading().rest) box.append(make("span", reading().rest, "plain"));
    }

    function glow(weights) {
      const shares = weights.map((w) => w * rows * columns);
      const top = Math.max(...shares, FULL);
      const lit = shares.map((s) => Math.max(0, (s - 1) / (top - 1)));
      const small = (fill) => {
        const made = make("canvas");
        made.width = columns; made.height = rows;
        const pixels = new ImageData(columns, rows);
        lit.forEach((x, n) => pixels.data.set(fill(x), 4 * n));
        made.getContext("2d").putImageData(pixels, 0, 0);
        return made;
      };
      const pen = canvas.getContext("2d"), { width, height } = canvas;
      pen.imageSmoothingEnabled = true; pen.imageSmoothingQuality = "high";
      pen.globalCompositeOperation = "source-over";
      pen.drawImage(photo, 0, 0, width, height);
      pen.globalCompositeOperation = "destination-in"; // the photo, where the word gathers
      pen.drawImage(small((x) => [0, 0, 0, 255 * Math.min(1, 2 * x)]), 0, 0, width, height);
      pen.globalCompositeOperation = "source-over";
      pen.drawImage(small((x) => [...heat(x), 255 * Math.min(1, 2.5 * x) * (0.5 + 0.2 * x)]), 0, 0, width, height);
    }

    function outline(boxes) {
      const pen = canvas.getContext("2d"), { width, height } = canvas, thick = Math.max(2, width / 260);
      for (const [x0, y0, x1, y1] of boxes) {
        const place = [x0 * width, y0 * height, (x1 - x0) * width, (y1 - y0) * height];
        pen.setLineDash([]); pen.lineWidth = 2.2 * thick; pen.strokeStyle = "rgb(0 0 0 / 70%)";
        pen.strokeRect(...place);
        pen.setLineDash([4 * thick, 2 * thick]); pen.lineWidth = thick; pen.strokeStyle = "#fff";
        pen.strokeRect(...place);
      }
    }

    function told() {
      const box = find("told"), n = active();
      box.replaceChildren();
      const say = (text, name) => box.appendChild(make("p", text, name));
      if (state.patch !== null && state.hover === null) {
        const place = `Row ${Math.floor(state.patch / columns) + 1}, column ${(state.patch % columns) + 1}`;
        const by = gatherers(state.patch);
        say(by.length ? `${place} is gathered, above an even share, by` : `${place}: no word gathers this patch above an even share.`);
        by.forEach((m) => {
          const line = say("");
          line.append(make("b", reading().words[m].text), ` with ${percent(share(m, state.patch))} of its weight`);
        });
        return;
      }
      if (n === null) {
        say("Point at a word, or tap it: its patches light up.");
        say("Click a patch: the words that gather it are marked.");
        if (data.pictures.length > 1) say("Then show the same caption over another image: what lights up there as well is habit, not seen, unless the word fits that image too.");
        return;
      }
      const word = reading().words[n], own = word.seen[0], others = word.seen.slice(1);
      const first = say("");
      first.append(make("b", `\u201c${word.text}\u201d`));
      if (word.pieces > 1) first.append(` is cut into ${word.pieces} pieces: the tokenizer met it rarely or never.`);
      const bars = box.appendChild(make("div", undefined, "gap"));
      const longest = Math.max(0.1, ...reading().words.flatMap((w) => w.seen.map((one) => one.score)));
      const row = (label, value, name) => {
        bars.append(make("span", label));
        const bar = bars.appendChild(make("i", undefined, name));
        bar.style.setProperty("--to", Math.max(0, Math.min(100, 100 * value / longest)) + "%");
        bars.append(make("span", plain(value)));
      };
      row("its image", own.score, "own");
      if (state.picture) row("this other", shown(n).score);
      if (others.length) {
        row(others.length > 1 ? `${others.length} others, mean` : "another", elsewhere(word));
        const line = say("Difference ");
        line.append(make("b", signed(apart(word)), word.out ? "out" : ""));
        line.append(word.out ? `: above every other image (by chance 1 word in ${others.length + 1} is).` : ": not above every other image. It may say nothing of this one, or fit another too.");
      }
      const where = word.boxes.length && !state.picture ? (word.hits ? ", on what it names" : ", beside what it names") : "";
      say(`Cosine of the word and what it gathers. Strongest patch: ${shown(n).peak.toFixed(1)} even shares${where}.`, "note");
      if (n === state.first) say("Point at another word, click a patch, or show another image: what lights up there as well is habit, unless the word fits it too.", "note");
    }

    function table() {
      const box = find("numbers");
      box.replaceChildren();
      const head = box.createTHead().insertRow();
      ["word", "difference", "its image", "others", "peak"].forEach((t) => { const th = head.appendChild(make("th", t)); th.scope = "col"; });
      const body = box.createTBody();
      reading().words.forEach((word) => {
        const others = word.seen.length > 1, row = body.insertRow();
        const th = row.appendChild(make("th", word.text + (word.pieces > 1 ? ` (${word.pieces} pieces)` : ""))); th.scope = "row";
        row.append(make("td", others ? signed(apart(word)) : "\u2013", word.out ? "out" : ""));
        row.append(make("td", plain(word.seen[0].score)), make("td", others ? plain(elsewhere(word)) : "\u2013"), make("td", word.seen[0].peak.toFixed(1)));
      });
    }

    let drawn = -1;
    function draw() {
      if (drawn !== state.picture) {
        photo.src = data.pictures[state.picture].src;
        photo.alt = data.pictures[state.picture].alt;
        drawn = state.picture;
      }
      root.classList.toggle("control", state.picture > 0);
      find("where").textContent = state.picture
        ? `Another image (${data.pictures[state.picture].name}): what lights up here is habit, not seen, unless the word fits it too.`
        : data.pictures[0].name;
      const n = active(), pen = canvas.getContext("2d");
      canvas.width = Math.min(1240, 2 * stage.clientWidth || 800);
      canvas.height = Math.round(canvas.width * stage.clientHeight / (stage.clientWidth || 1)) || canvas.width;
      pen.clearRect(0, 0, canvas.width, canvas.height);
      stage.classList.toggle("lit", n !== null);
      if (n !== null && photo.complete && photo.naturalWidth) {
        glow(shown(n).weights);
        if (!state.picture) outline(reading().words[n].boxes);
      }
      const by = state.patch === null ? [] : gatherers(state.patch);
      [...root.querySelectorAll(".word")].forEach((button, m) => {
        button.setAttribute("aria-pressed", String(m === n));
        button.classList.toggle("gathers", by.includes(m));
        button.querySelector("small").textContent = by.includes(m) ? ` ${percent(share(m, state.patch))}` : "";
      });
      cell.style.display = state.patch === null ? "none" : "block";
      if (state.patch !== null) {
        const r = Math.floor(state.patch / columns), c = state.patch % columns;
        Object.assign(cell.style, { left: 100 * c / columns + "%", top: 100 * r / rows + "%", width: 100 / columns + "%", height: 100 / rows + "%" });
      }
      pressed.forEach((update) => update());
      told(); table();
    }

    stage.addEventListener("click", (event) => {
      const box = stage.getBoundingClientRect();
      const at = (x, size, count) => Math.min(count - 1, Math.max(0, Math.floor(x / size * count)));
      const patch = at(event.clientY - box.top, box.height, rows) * columns + at(event.clientX - box.left, box.width, columns);
      state.patch = state.patch === patch ? null : patch;
      state.word = null;
      draw();
    });
    stage.addEventListener("keydown", (event) => {
      const step = { ArrowUp: -columns, ArrowDown: columns, ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (step === undefined && event.key !== "Escape") return;
      event.preventDefault();
      if (event.key === "Escape") state.patch = null;
      else if (state.patch === null) state.patch = Math.floor(rows / 2) * columns + Math.floor(columns / 2);
      else {
        const next = state.patch + step, wraps = Math.abs(step) === 1 && Math.floor(next / columns) !== Math.floor(state.patch / columns);
        if (next >= 0 && next < rows * columns && !wraps) state.patch = next;
      }
      state.word = null;
      draw();
    });
    root.addEventListener("keydown", (event) => {
      if (event.key.toLowerCase() !== "o" || event.ctrlKey || event.metaKey || event.altKey || data.pictures.length < 2) return;
      state.picture = (state.picture + 1) % data.pictures.length;
      draw();
    });
    photo.addEventListener("load", draw);
    new ResizeObserver(draw).observe(stage);
    const pressed = [
      choice("pictures", "Picture: its own, or another as a control", data.pictures.map((p, n) => (n === 0 ? "its own" : data.pictures.length === 2 ? "another" : `other ${n}`)), "picture"),
      choice("readings", "Read as", data.readings.map((r) => r.title + (r.trained ? " (trained)" : "")), "reading"),
    ];
    const start = new URLSearchParams(location.hash.slice(1)); // #word=2&picture=1 opens it so
    for (const key of ["picture", "reading", "word", "patch"]) {
      const n = parseInt(start.get(key), 10);
      const count = { picture: data.pictures.length, reading: data.readings.length, word: 1e3, patch: rows * columns }[key];
      if (n >= 0 && n < count) state[key] = n;
    }
    if (!["word", "patch"].some((key) => start.has(key))) { // opens on the word that its image sets apart most
      const out = reading().words.filter((word) => word.out && !word.minor), named = out.filter((word) => word.boxes.length);
      const told = named.length ? named : out; // of those whose place is known, where some are
      const first = told.sort((a, b) => apart(b) - apart(a))[0];
      state.word = state.first = first ? reading().words.indexOf(first) : null;
    }
    words();
    if (state.word !== null && state.word >= reading().words.length) state.word = null;
    draw();
    root.dataset.ready = "yes";
  }
  document.querySelectorAll(".viewer").forEach(view);
})();
