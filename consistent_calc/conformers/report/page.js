
"use strict";
// The 3D views and what is clicked. Sections, ladders and tables are in the page already and work without this script.
(() => {
  // Browsers keep some sixteen WebGL canvases alive; sections that scroll out of sight lend theirs to others.
  const MOST_CANVASES = 8;
  // More superimposed conformers than this are a cloud; the lowest ones are shown first.
  const FIRST_SHOWN = 30;
  // Half of what is in view of the smallest molecules, Angstrom.
  const NEAREST = 2;
  const ELEMENT_COLORS = {
    H: "#d9dde2", C: "#8b929c", N: "#3f66d9", O: "#d8403a", F: "#5bb84a", P: "#e08a24",
    S: "#d6b421", Cl: "#3cae3c", Br: "#a14a2b", I: "#8c4bb0",
  };
  const canvases = [];
  let clock = 0;

  class View {
    constructor(section) {
      this.section = section;
      this.levels = [...section.querySelectorAll(".level")];
      this.rows = [...section.querySelectorAll("tbody tr")];
      this.boxes = this.rows.map((row) => row.querySelector("input"));
      this.all = section.querySelector("input.all");
      this.superimposed = this.levels.length > 1;
      this.current = 0;
      this.visible = false;
      this.canvas = null;
      this.orientation = null;
      const place = section.querySelector(".view");
      place.append(document.getElementById("view").content.cloneNode(true));
      this.stage = place.querySelector(".stage");
      this.message = place.querySelector(".message");
      this.caption = place.querySelector(".caption");
      this.hydrogens = place.querySelector(".hydrogens");
      this.buttons = Object.fromEntries([...place.querySelectorAll("[data-do]")].map((b) => [b.dataset.do, b]));
      this.stage.setAttribute(
        "aria-label", `3D view of ${this.name()}: drag or arrow keys turn it, plus and minus zoom`);
      this.boxes.forEach((box, k) => { box.checked = k < FIRST_SHOWN; });
      this.listen();
      this.update();
    }

    name() {
      return this.section.querySelector("h2").textContent;
    }

    listen() {
      const on = (what, act) => this.buttons[what].addEventListener("click", act);
      on("superimposed", () => this.superimpose());
      on("single", () => this.show(this.current));
      on("previous", () => this.show(this.current - 1));
      on("next", () => this.show(this.current + 1));
      on("closer", () => this.zoom(1.25));
      on("farther", () => this.zoom(0.8));
      on("reset", () => this.reset());
      this.hydrogens.addEventListener("change", () => this.update());
      this.levels.forEach((level, k) => {
        level.addEventListener("click", () => this.show(k));
        level.addEventListener("keydown", (event) => this.walk(event, k));
      });
      this.rows.forEach((row, k) => {
        row.addEventListener("click", (event) => {
          if (!event.target.closest("input")) this.show(k);
        });
        this.boxes[k].addEventListener("change", () => this.superimpose());
      });
      this.all.addEventListener("change", () => {
        for (const box of this.boxes) box.checked = this.all.checked;
        this.superimpose();
      });
      this.stage.addEventListener("keydown", (event) => this.turn(event));
      // The wheel scrolls the page, and zooms only where someone has clicked, so that nobody gets stuck in a picture.
      let clicked = false;
      this.stage.addEventListener("pointerdown", () => { clicked = true; });
      this.stage.addEventListener("pointerleave", (event) => { if (!event.buttons) clicked = false; });
      this.stage.addEventListener("wheel", (event) => { if (!clicked) event.stopPropagation(); }, true);
    }

    /** Shows one conformer alone. */
    show(k) {
      if (k < 0 || k >= this.levels.length) return;
      this.current = k;
      this.superimposed = false;
      this.update();
    }

    /** Shows all conformers whose boxes are ticked. */
    superimpose() {
      this.superimposed = true;
      this.update();
    }

    /** Arrow keys and Enter on the ladder. */
    walk(event, k) {
      const last = this.levels.length - 1;
      const goal = {
        ArrowRight: k + 1, ArrowUp: k + 1, ArrowLeft: k - 1, ArrowDown: k - 1, Home: 0, End: last, Enter: k, " ": k,
      }[event.key];
      if (goal === undefined) return;
      event.preventDefault();
      this.show(Math.min(Math.max(goal, 0), last));
      this.levels[this.current].focus();
    }

    /** Arrow keys, plus and minus on the 3D view. */
    turn(event) {
      const turns = { ArrowLeft: [-15, "vy"], ArrowRight: [15, "vy"], ArrowUp: [-15, "vx"], ArrowDown: [15, "vx"] };
      const zooms = { "+": 1.25, "=": 1.25, "-": 0.8 };
      if (!this.canvas || event.ctrlKey || event.metaKey || event.altKey) return;
      if (turns[event.key]) this.canvas.viewer.rotate(...turns[event.key]);
      else if (zooms[event.key]) this.zoom(zooms[event.key]);
      else return;
      event.preventDefault();
    }

    zoom(factor) {
      if (this.canvas) this.canvas.viewer.zoom(factor);
    }

    shown() {
      return this.superimposed ? [...this.boxes.keys()].filter((k) => this.boxes[k].checked) : [this.current];
    }

    /** Brings buttons, ladder, table and picture in line with what is chosen. */
    update() {
      const total = this.levels.length, ticked = this.boxes.filter((box) => box.checked).length;
      const single = !this.superimposed;
      this.levels.forEach((level, k) => {
        level.setAttribute("aria-checked", String(single && k === this.current));
        level.setAttribute("tabindex", k === this.current ? "0" : "-1");
      });
      this.rows.forEach((row, k) => row.classList.toggle("chosen", single && k === this.current));
      this.all.checked = ticked === total;
      this.all.indeterminate = ticked > 0 && ticked < total;
      this.buttons.superimposed.setAttribute("aria-pressed", String(!single));
      this.buttons.single.setAttribute("aria-pressed", String(single));
      this.buttons.previous.disabled = !single || this.current === 0;
      this.buttons.next.disabled = !single || this.current === total - 1;
      this.caption.textContent = single
        ? this.levels[this.current].getAttribute("aria-label")
        : `${ticked} of ${total} conformers superimposed, carbons coloured by energy`;
      this.draw();
    }

    /** Takes a canvas if one is to be had. */
    take() {
      if (this.canvas || !this.visible) return;
      if (!this.stage.clientWidth) {  // not laid out yet; WebGL complains of empty canvases
        requestAnimationFrame(() => this.take());
        return;
      }
      let canvas = canvases.filter((c) => !c.view.visible).sort((a, b) => a.used - b.used)[0];
      if (canvas && canvases.length >= MOST_CANVASES) {
        canvas.view.give();
      } else if (canvases.length < MOST_CANVASES) {
        canvas = newCanvas(this.stage);
        if (!canvas) {
          this.message.textContent = "This browser gives no WebGL, which the 3D view needs.";
          return;
        }
        canvases.push(canvas);
      } else {
        return;
      }
      this.canvas = canvas;
      canvas.view = this;
      canvas.used = ++clock;
      this.stage.append(canvas.element);
      this.message.hidden = true;
      canvas.viewer.resize();
      if (this.orientation) {
        this.draw();
        canvas.viewer.setView(this.orientation);
      } else {
        this.reset();
      }
    }

    /** Lets go of the canvas for another section. */
    give() {
      this.orientation = this.canvas.viewer.getView();
      this.canvas.element.remove();
      this.canvas = null;
      this.message.hidden = false;
    }

    /** Looks at the whole ensemble from the front. */
    reset() {
      if (!this.canvas) return;
      const viewer = this.canvas.viewer;
      this.fill(this.levels.map((_, k) => k));
      viewer.setView([0, 0, 0, 0, 0, 0, 0, 1]);
      viewer.zoomTo();
      viewer.zoom(this.spareRoom());
      this.draw();
    }

    /** How much closer than 3Dmol.js goes, which leaves room for every rotation, the ensemble can come. */
    spareRoom() {
      const size = [0, 0, 0], middle = [0, 0, 0], places = this.data.coordinates, margin = 900;
      const n = places.reduce((sum, place) => sum + place.length / 3, 0);
      for (const place of places) place.forEach((value, i) => { middle[i % 3] += value / n; });
      let farthest = 0;
      for (const place of places) {
        for (let i = 0; i < place.length; i += 3) {
          const from = middle.map((m, axis) => Math.abs(place[i + axis] - m));
          from.forEach((value, axis) => { size[axis] = Math.max(size[axis], value); });
          farthest = Math.max(farthest, Math.hypot(...from));
        }
      }
      const aspect = this.stage.clientWidth / this.stage.clientHeight;
      const needed = Math.max(size[0] / Math.max(aspect, 0.1), size[1], size[2] / 2) + margin;
      return Math.min(1.5, Math.max(0.7, Math.max(farthest, 1000 * NEAREST) / needed));
    }

    draw() {
      if (!this.canvas) return;
      this.fill(this.shown());
      this.canvas.viewer.render();
    }

    /** Puts the conformers into the viewer, in place of what was there. */
    fill(conformers) {
      this.data ??= JSON.parse(this.section.querySelector("script").textContent);
      const viewer = this.canvas.viewer, many = this.superimposed && this.levels.length > 1;
      viewer.removeAllModels();
      for (const k of conformers) {
        const model = viewer.addModel();
        model.addAtoms(atoms(this.data, k, this.hydrogens.checked));
        const colorfunc = (atom) => (many && atom.elem === "C" ? this.data.colors[k] : colorOf(atom.elem));
        model.setStyle({}, many
          ? { stick: { radius: 0.07, colorfunc } }
          : { stick: { radius: 0.12, colorfunc }, sphere: { scale: 0.22, colorfunc } });
      }
    }
  }

  const colorOf = (element) => ELEMENT_COLORS[element] ?? "#b06fc4";

  /** The atoms of one conformer as 3Dmol.js takes them. */
  function atoms(data, k, hydrogens) {
    const place = data.coordinates[k];
    const all = data.elements.map((elem, i) => ({
      elem, index: i, serial: i, x: place[3 * i] / 1000, y: place[3 * i + 1] / 1000, z: place[3 * i + 2] / 1000,
      bonds: [], bondOrder: [],
    }));
    for (let b = 0; b < data.bonds.length; b += 3) {
      const [i, j, order] = data.bonds.slice(b, b + 3);
      all[i].bonds.push(j);
      all[i].bondOrder.push(order);
      all[j].bonds.push(i);
      all[j].bondOrder.push(order);
    }
    return hydrogens || data.elements.every((e) => e === "H") ? all : all.filter((atom) => atom.elem !== "H");
  }

  /** A 3D canvas, or null where there is no WebGL. */
  function newCanvas(stage) {
    const element = document.createElement("div");
    element.className = "canvas";
    stage.append(element);
    try {
      const viewer = $3Dmol.createViewer(element, {
        backgroundAlpha: 0, antialias: true, disableFog: true, minimumZoomToDistance: NEAREST,
      });
      return { element, viewer, view: null, used: 0 };
    } catch (error) {
      element.remove();
      return null;
    }
  }

  /** The list of molecules, with a filter. */
  function fillContents(sections) {
    const nav = document.getElementById("contents"), list = nav.querySelector("ol");
    const entries = sections.map((section) => {
      const link = document.createElement("a"), count = document.createElement("span");
      const item = document.createElement("li"), n = section.querySelectorAll(".level").length;
      link.href = `#${section.id}`;
      link.textContent = section.querySelector("h2").textContent;
      count.textContent = ` ${n} conformer${n === 1 ? "" : "s"}`;
      item.append(link, count);
      const text = [...section.querySelectorAll("h2, .facts code")].map((e) => e.textContent).join("\n");
      return { section, item, text: text.toLowerCase() };
    });
    list.append(...entries.map((entry) => entry.item));
    nav.querySelector("input").addEventListener("input", (event) => {
      const wanted = event.target.value.trim().toLowerCase();
      for (const entry of entries) {
        entry.item.hidden = entry.section.hidden = !entry.text.includes(wanted);
      }
    });
    nav.hidden = false;
    document.body.classList.add("many");
    if (window.matchMedia("(max-width: 75rem)").matches) nav.querySelector("details").open = false;
  }

  document.addEventListener("DOMContentLoaded", () => {
    const sections = [...document.querySelectorAll(".molecule")];
    if (sections.length > 1) fillContents(sections);
    const views = new Map();
    const watcher = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) {
        if (isIntersecting && !views.has(target)) views.set(target, new View(target));
        const view = views.get(target);
        if (view) view.visible = isIntersecting;
      }
      for (const view of views.values()) view.take();
    }, { rootMargin: "150px" });
    for (const section of sections) watcher.observe(section);
  });
})();
