// Turns each tile's strip of pictures into two stacked ones with a slider between them. Without it the strips stay.
(() => {
  "use strict";
  const views = document.querySelector(".views");
  if (!views) return;
  document.documentElement.classList.add("live");
  views.hidden = false;

  const make = (name, parent, settings = {}) => {
    const element = Object.assign(document.createElement(name), settings);
    parent.append(element);
    return element;
  };

  const sliders = [...document.querySelectorAll(".tile")].map((tile) => {
    const pictures = new Map([...tile.querySelectorAll("img")].map((image) => [image.dataset.name, image]));
    const frame = document.createElement("div");
    frame.className = "slider";
    tile.querySelector(".strip").before(frame);
    const right = make("img", frame, { className: "right" });
    const left = make("img", frame, { className: "left" });
    const leftName = make("span", frame, { className: "tag left" });
    const rightName = make("span", frame, { className: "tag right" });
    const range = make("input", frame, { type: "range", min: 0, max: 100, value: 50 });
    leftName.ariaHidden = rightName.ariaHidden = "true";

    const move = () => {
      frame.style.setProperty("--split", `${range.value}%`);
      range.setAttribute(
        "aria-valuetext",
        `${range.value} % ${leftName.textContent}, ${100 - range.value} % ${rightName.textContent}`,
      );
    };
    const show = (names) => {
      [[left, leftName, names[0]], [right, rightName, names[1]]].forEach(([image, tag, name]) => {
        image.src = pictures.get(name).src;
        image.alt = pictures.get(name).alt;
        tag.textContent = pictures.get(name).dataset.says;
      });
      range.setAttribute(
        "aria-label",
        `${tile.querySelector("h4").textContent}: how much ${leftName.textContent} beside ${rightName.textContent}`,
      );
      move();
    };
    range.addEventListener("input", move);
    return show;
  });

  const choose = () => {
    const names = views.querySelector("input:checked").value.split(" ");
    sliders.forEach((show) => show(names));
  };
  views.addEventListener("change", choose);
  choose();
})();
