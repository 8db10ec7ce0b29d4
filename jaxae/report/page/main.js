const page = JSON.parse(document.getElementById("data").textContent);
charts(document.getElementById("charts"), page.charts, page.colours);
if (page.wall) wall(page.wall, page.colours);
