"""The 762 nouns of Flickr8k's phrases, in the order of boxes_nouns_lvis_*.json."""

nouns = tuple(
    """
adult advertisement airplane animal apple apron arch area arm art athlete attire atv audience
awning baby backpack backyard badge bag bagpipe balcony bale ball balloon band bandanna bank
banner bar barn barrel barrier base baseball basket basketball bat bathroom beach bead beak beam
bear beard bed beer behind belly belonging belt bench bend beverage bib bicycle bicyclist bike
biker bikini bikinis bill bird blanket bleachers block blow bluff board boardwalk boat body bone
book boot booth bottle bottom bouquet bow bowl box boxer boy bra bracelet braid branch brick
bride bridesmaid bridge broom brother brush bubble bucket building bull bump bus bush button
cage cake camel camera campfire can candle candy cane cannon canoe canopy canyon cap cape car
card carpet carriage cart case cast cat catcher cave ceiling cellphone chain chair cheek
cheerleader chest chicken child chin church cigarette circle circuit city class cliff climber
cloth clothes clothing cloud clown coach coaster coat coffee collar color column computer
concrete cone container cord corner costume couch counter couple course court courtyard cow
cowboy crane cream creek cross crosswalk crowd crown cup curb curtain cyclist dandelion deck
desert desk device diaper diner dirt display diver dock dog doll door doorway dot dreadlock
dress drink driver droplet drum drummer duck dune dust ear earring edge elephant embrace end
entrance equipment expression eye eyebrow fabric face family fan feather female fence field
fight figure finger fire fireman fireplace fish fist flag flame flight flip float floor flower
flute fog foliage food foot football footballer forehead forest formation fountain frame friend
frisbee fruit fur furniture game garb garden gate gathering gear gesture girl glass glasses
glider glove goal goalie goat goggles goose graffiti grass grassy gravel greenery greyhound
groom groomsmen group guitar guitarist gun guy gym hair haircut hallway hand handbag handle
handlebar handrail handstand harness hat hay head headband headdress headfirst headphones
headscarf headscarve heart heel helmet highchair hike hiker hill hillside hip hole home hood
hoodie hoop horn horse hose house huddle hurdle hut ice image innertube instrument item jacket
jar jeans jeep jersey jet jockey jumper jumpsuit kayak kayaker kid kilt kiss kite knee ladder
lady lake land landscape language lap laptop lawn lay leaf leap lease leash leather ledge leg
legging leotard light line lip litter log logo look lot luggage machine magazine makeup male man
mark marking mask mat meal member miami microphone midair mitten mohawk monitor monument mother
motorbike motorcycle motorcyclist mound mountain mountainside mountaintop moustache mouth mud
mural music musician mustache muzzle neck necklace net newspaper nose number oar object obstacle
ocean officer onlooker open opponent outdoor outfit overalls owner pacifier pack pad paddle
paint painting pajamas pants paper paperwork parachute parade parent park parka party passenger
patch path pathway patio pattern pavement paw peak pedestrian pen people person phone photo
photographer piano pick picture piece pier piercing pigeon pigtail pillow pipe pit pitcher plain
plane plank plant plate platform player playground playhouse playpen pocket point pole policeman
pond ponytail poodle pool porch post poster pot protection puck puddle pulley pump pumpkin puppy
purse race racer racetrack rack racket racquet raft rail railing rainbow raincoat ramp range
rapid rear referee reflection restaurant ribbon ride rider ridge ring rink river riverbank road
robe rock rollerblade rollerblader roof room rope row rowboat rug runner sack sail sailboat sand
sandal scarf scene school scooter screen sculpture sea seagull seat seesaw setting shade shadow
sheep sheet shelf ship shirt shoe shop shore shoreline shorts shot shoulder shovel shower shrub
sidecar sideline sidewalk sign silhouette singer six skate skateboard skateboarder skater ski
skier skiier skirt skis skull sky skyline sled sleeve sleigh slide slipper slope smile smoke
snack snake sneaker snow snowball snowbank snowboard snowboarder snowmobile snowsuit soccer sock
soda sofa softball sparkler spectator splash spot spray sprinkler square stadium stage staircase
stairs stairway stand star stare station statue step stick stomach stool store storefront strap
stream street string strip stripe stroller structure student stump stunt suit sun sunglasses
sunset surf surface surfboard surfer swan sweater sweatshirt swimmer swimsuit swing sword table
tag tail tank tape target tarp tattoo team teammate teenager tent terrain thumb ticket tie tiger
tightrope tire toddler toilet tongue tooth towel toy track tracksuit traffic trail train
trampoline trash trashcan tray treat tree tricycle tripod truck trunk trunks tube tunnel turban
turn tutu tuxedo umbrella underwear unicycle uniform valley van vault vehicle vendor vest view
violin volleyball wagon waist wakeboard walk walker walkway wall watch water watercraft
waterfall wave wear weed wetsuit wheel wheelbarrow wheelchair wheeler wheelie whistle wig window
wing wire woman wood worker wrestler wrist wristband writing yard
""".split()  # noqa: SIM905
)
