const points = JSON.parse(document.getElementById("points").textContent);
const stack = document.querySelector(".stack");
if (stack && points.length) {
  const readout = stack.querySelector(".readout");
  const charts = [...stack.querySelectorAll("svg.chart")];
  const lines = charts.map((chart) => {
    const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
    line.setAttribute("class", "crosshair");
    line.setAttribute("y1", 18);
    line.setAttribute("y2", chart.viewBox.baseVal.height - 40);
    chart.append(line);
    return line;
  });
  const place = (chart, x) => {
    const { x0, x1, left, right } = chart.dataset;
    return +left + ((x - x0) / (x1 - x0)) * (right - left);
  };
  const cross = ([x]) => lines.forEach((line, i) => ["x1", "x2"].forEach((name) => line.setAttribute(name, place(charts[i], x))));
  const tell = ([, stage, step, tokens, loss, norm, rate]) => {
    const bold = document.createElement("b");
    bold.textContent = `loss ${loss}`;
    readout.replaceChildren(`${stage} step ${step} · ${tokens} tokens · `, bold, ` · gradient norm ${norm} · learning rate ${rate}`);
  };
  charts.forEach((chart) =>
    chart.addEventListener("pointermove", (event) => {
      const box = chart.getBoundingClientRect();
      const { x0, x1, left, right } = chart.dataset;
      const at = ((event.clientX - box.left) / box.width) * chart.viewBox.baseVal.width;
      const x = +x0 + ((at - left) / (right - left)) * (x1 - x0);
      const nearest = points.reduce((best, point) => (Math.abs(point[0] - x) < Math.abs(best[0] - x) ? point : best));
      cross(nearest);
      tell(nearest);
    })
  );
  tell(points[points.length - 1]);
}
