"""Which emoji the miniature draws: concrete things, by Unicode's subgroups, less what looks alike.

People, hands, flags, clock faces, buttons and signs are left out: text in small print, or one picture in many
variants.
"""

SUBGROUPS = {
    "animals": (
        "animal-mammal",
        "animal-bird",
        "animal-amphibian",
        "animal-reptile",
        "animal-marine",
        "animal-bug",
    ),
    "plants": ("plant-flower", "plant-other"),
    "food": (
        "food-fruit",
        "food-vegetable",
        "food-prepared",
        "food-asian",
        "food-sweet",
        "drink",
        "dishware",
    ),
    "places": ("place-map", "place-geographic", "place-building", "place-religious", "place-other"),
    "travel": ("transport-ground", "transport-water", "transport-air", "hotel", "time"),
    "sky": ("sky-weather",),
    "activities": ("event", "award-medal", "sport", "game", "arts-crafts"),
    "clothing": ("clothing",),
    "music": ("music", "musical-instrument"),
}

NEAR_DUPLICATES = """
    guide dog; service dog; two-hump camel; ox; water buffalo; front-facing baby chick; whale; black
    bird; wing; pig nose; microbe; rosette; wilted flower; shamrock; leaf fluttering in wind; empty
    nest; leafless tree; black cat;
    brown mushroom; lime; pouring liquid; clinking glasses; fork and knife; root vegetable; moon cake;
    dumpling;
    globe showing Europe-Africa; globe showing Asia-Australia; globe showing Americas; landslide; mount
    fuji; houses; love hotel; Japanese post office; building construction; wedding; hindu temple; kaaba;
    foggy; cityscape at dusk; sunrise over mountains; house with garden; map of Japan; department store;
    desert island;
    oncoming bus; oncoming police car; oncoming taxi; oncoming automobile; train; station; tram car;
    high-speed train; light rail; monorail; trolleybus; small airplane; airplane departure; airplane
    arrival; stop sign; construction; bus stop; vertical traffic light; hourglass not done; timer clock;
    mantelpiece clock; motor boat; ferry; ship; suspension railway; aerial tramway; motorized
    wheelchair;
    new moon; waxing crescent moon; first quarter moon; waxing gibbous moon; waning gibbous moon; last
    quarter moon; waning crescent moon; last quarter moon face; sun behind small cloud; sun behind large
    cloud; thermometer; glowing star; umbrella; full moon face; cloud with snow; fog; snowman without
    snow; milky way; cloud with lightning and rain; umbrella on ground;
    2nd place medal; 3rd place medal; 1st place medal; softball; rugby football; heart suit; spade suit;
    club suit; diamond suit; joker; mahjong red dragon; flower playing cards; admission tickets; moon
    viewing ceremony; reminder ribbon; field hockey; sparkles; sparkler; tanabata tree;
    hair pick; woman's sandal; man's shoe; woman's clothes; prayer beads; goggles; clutch bag; briefs;
    flat shoe; sari; level slider; control knobs; musical score; musical notes
"""

HOURS = (
    *("one", "two", "three", "four", "five", "six"),
    *("seven", "eight", "nine", "ten", "eleven", "twelve"),
)
CLOCK_FACES = {f"{hour} o'clock" for hour in HOURS} | {f"{hour}-thirty" for hour in HOURS}

LEFT_OUT = CLOCK_FACES | {" ".join(name.split()) for name in NEAR_DUPLICATES.split(";")}
