"""The words of the translation task, as tables to be read; words.py makes something of them.

In a table, columns are two or more spaces apart and right translations of one word stand between slashes, the preferred
one first. Forms that follow from rules are left out. The kinds in the tables keep sentences sensible: which adjective
suits which noun, what a verb is done by and to.
"""

# English and its plural, French and its plural with the gender.
NOUNS = {
    "person": """
        man, men            homme m
        woman, women        femme f
        boy                 garçon m
        girl                fille f
        king                roi m
        queen               reine f
        doctor              médecin m / docteur m
        teacher             professeur m / professeure f
        friend              ami m / amie f
        neighbour           voisin m / voisine f
        student             étudiant m / étudiante f
        baker               boulanger m / boulangère f
        singer              chanteur m / chanteuse f
        nurse               infirmière f / infirmier m
        brother             frère m
        sister              sœur f
        father              père m
        mother              mère f
        uncle               oncle m
        aunt                tante f
        cousin              cousin m / cousine f
        baby                bébé m
        soldier             soldat m
        actor               acteur m
        actress             actrice f
        hero                héros m
        prince              prince m
        princess            princesse f
        lawyer              avocat m / avocate f
        dancer              danseur m / danseuse f
    """,
    "animal": """
        cat                 chat m
        dog                 chien m
        horse               cheval, chevaux m
        bird                oiseau m
        cow                 vache f
        pig                 cochon m
        rabbit              lapin m
        mouse, mice         souris f
        duck                canard m
        hen                 poule f
        wolf, wolves        loup m
        lion                lion m
        bear                ours m
        elephant            éléphant m
        monkey              singe m
        frog                grenouille f
        bee                 abeille f
        ant                 fourmi f
        donkey              âne m
        owl                 hibou, hiboux m
        hedgehog            hérisson m
        turtle              tortue f
        goat                chèvre f
        squirrel            écureuil m
        spider              araignée f
    """,
    "food": """
        apple               pomme f
        pear                poire f
        orange              orange f
        lemon               citron m
        egg                 œuf m
        cake                gâteau m
        potato              pomme de terre, pommes de terre f
        carrot              carotte f
        tomato              tomate f
        onion               oignon m
        banana              banane f
        strawberry          fraise f
        mushroom            champignon m
        apricot             abricot m
        bean                haricot m
    """,
    "text": """
        book                livre m
        letter              lettre f
        newspaper           journal, journaux m
        story               histoire f
        novel               roman m
        poem                poème m
        message             message m
    """,
    "thing": """
        table               table f
        chair               chaise f
        bed                 lit m
        clock               horloge f
        key                 clé f
        bag                 sac m
        knife, knives       couteau m
        spoon               cuillère f
        pencil              crayon m
        computer            ordinateur m
        umbrella            parapluie m
        ball                ballon m / balle f
        toy                 jouet m
        flower              fleur f
        tree                arbre m
        stone               pierre f
        gift                cadeau m
        ring                bague f
        guitar              guitare f
        ladder              échelle f
        tool                outil m
        axe                 hache f
    """,
    "fragile": """
        lamp                lampe f
        cup                 tasse f
        plate               assiette f
        bottle              bouteille f
        mirror              miroir m
        vase                vase m
    """,
    "opening": """
        door                porte f
        window              fenêtre f
        box                 boîte f
        cupboard            armoire f / placard m
    """,
    "clothing": """
        shirt               chemise f
        hat                 chapeau m
        coat                manteau m
        dress               robe f
        skirt               jupe f
        shoe                chaussure f
        scarf, scarves      écharpe f
        jacket              veste f
        sock                chaussette f
        glove               gant m
    """,
    "vehicle": """
        car                 voiture f
        train               train m
        bus                 bus m
        lorry               camion m
        plane               avion m
        boat                bateau m
        bicycle             vélo m / bicyclette f
    """,
    "building": """
        house               maison f
        castle              château m
        church              église f
        hospital            hôpital, hôpitaux m
        hotel               hôtel m
        school              école f
        museum              musée m
        bridge              pont m
        tower               tour f
    """,
}
# Without a plural.
MASS_NOUNS = {
    "food": """
        bread               pain m
        cheese              fromage m
        meat                viande f
        rice                riz m
        butter              beurre m
        jam                 confiture f
        honey               miel m
        soup                soupe f
    """,
    "drink": """
        water               eau f
        milk                lait m
        coffee              café m
        tea                 thé m
        wine                vin m
        beer                bière f
        lemonade            limonade f
    """,
}
# English; French masculine, feminine where it is not masculine + e, masculine before a vowel where it differs; what it
# suits.
ADJECTIVES = {
    "before": """
        small               petit                      animal food text thing fragile opening clothing vehicle building
        little              petit                      person
        big                 grand / gros grosse        animal thing opening vehicle
        large               grand                      building clothing
        beautiful           beau belle bel             animal thing fragile clothing building text
        pretty              joli                       fragile clothing
        young               jeune                      person animal
        old                 vieux vieille vieil        person animal text thing fragile opening clothing vehicle building
        good                bon bonne                  food drink text
        bad                 mauvais                    food drink text
        new                 nouveau nouvelle nouvel    text thing fragile opening clothing vehicle building
        long                long longue                text clothing
    """,
    "after": """
        red                 rouge                      thing fragile opening clothing vehicle
        black               noir                       animal thing fragile opening clothing vehicle
        white               blanc blanche              animal thing fragile opening clothing vehicle building
        green               vert                       thing fragile opening clothing vehicle
        blue                bleu                       thing fragile opening clothing vehicle
        yellow              jaune                      thing fragile opening clothing vehicle
        grey                gris                       animal thing fragile opening clothing vehicle building
        heavy               lourd                      thing opening
        light               léger légère               thing clothing
        expensive           cher chère                 food drink thing fragile clothing vehicle
        empty               vide                       opening vehicle building
        clean               propre                     thing fragile clothing opening vehicle
        dirty               sale                       thing fragile clothing opening vehicle animal
        broken              cassé                      thing fragile opening
        open                ouvert                     opening
        closed              fermé                      opening building
        round               rond                       thing fragile opening
        hot                 chaud                      food drink
        cold                froid                      food drink
        fresh               frais fraîche              food
        happy               heureux heureuse / content  person animal
        sad                 triste                     person animal
        tired               fatigué                    person animal
        ill                 malade                     person animal
        intelligent         intelligent                person animal
        rich                riche                      person
        poor                pauvre                     person
        strong              fort                       person animal
        weak                faible                     person animal
        kind                gentil gentille            person
        shy                 timide                     person animal
        famous              célèbre                    person text building
        brave               courageux courageuse       person animal
        lazy                paresseux paresseuse       person animal
        serious             sérieux sérieuse           person
        calm                calme                      person animal
        dangerous           dangereux dangereuse       animal vehicle
        fast                rapide                     animal vehicle
        slow                lent                       animal vehicle
        modern              moderne                    building vehicle
        interesting         intéressant                text
        boring              ennuyeux ennuyeuse         text
        strange             étrange                    text thing building
        French              français                   person text vehicle
        Italian             italien italienne          person text vehicle
    """,
}
# English, with past, participle and -ing where they are irregular and a star for a state that has no -ing form; French
# infinitive; who does it; to what.
VERBS = """
    sleep, slept, slept             dormir              person animal
    work                            travailler          person
    sing, sang, sung                chanter             person animal
    dance                           danser              person animal
    laugh                           rire                person
    cry                             pleurer             person
    run, ran, run, running          courir              person animal
    walk                            marcher             person animal
    swim, swam, swum, swimming      nager               person animal
    play                            jouer               person animal
    talk                            parler              person
    wait                            attendre            person animal
    smile                           sourire             person
    fall, fell, fallen              tomber              person animal
    arrive                          arriver             person animal
    leave, left, left               partir              person animal
    come back, came, come           revenir             person animal
    stay                            rester              person animal
    study                           étudier             person
    shout                           crier               person
    jump                            sauter              person animal
    win, won, won, winning          gagner              person animal
    cook                            cuisiner            person
    eat, ate, eaten                 manger              person animal       food
    drink, drank, drunk             boire               person animal       drink
    buy, bought, bought             acheter             person              food drink text thing fragile clothing vehicle animal
    sell, sold, sold                vendre              person              food drink text thing fragile clothing vehicle animal
    see, saw, seen, seeing          voir                person animal       person animal food thing fragile vehicle building
    look at                         regarder            person animal       person animal text thing fragile clothing vehicle building
    look for                        chercher            person animal       person animal food text thing clothing vehicle
    find, found, found              trouver             person animal       person animal food text thing clothing building
    love *                          aimer / adorer      person              person animal food drink text
    hate *                          détester            person              person animal food drink text
    read, read, read                lire                person              text
    write, wrote, written           écrire              person              text
    open                            ouvrir              person              opening
    close                           fermer              person              opening
    take, took, taken               prendre             person              thing fragile food clothing
    wear, wore, worn                porter              person              clothing
    carry                           porter              person              thing fragile
    wash                            laver               person              clothing vehicle fragile animal
    draw, drew, drawn               dessiner            person              person animal thing building
    break, broke, broken            casser              person animal       fragile
    lose, lost, lost                perdre              person              thing clothing text
    forget, forgot, forgotten, forgetting  oublier      person              thing clothing text
    hide, hid, hidden               cacher              person              thing food text
    hear, heard, heard              entendre            person animal       person animal vehicle
    listen to                       écouter             person animal       person
    call                            appeler             person              person
    help                            aider               person animal       person animal
    visit                           visiter             person              building
    know, knew, known *             connaître           person              person building text
    want *                          vouloir             person              food drink thing clothing vehicle animal
    have, had, had *                avoir               person              food drink text thing fragile clothing vehicle animal
    choose, chose, chosen           choisir             person              food drink text thing clothing vehicle
    finish                          finir               person              text
    build, built, built             construire          person              building
    clean                           nettoyer            person              fragile clothing opening vehicle building
    follow                          suivre              person animal       person animal vehicle
    wait for                        attendre            person animal       person vehicle
    meet, met, met                  rencontrer          person              person
    touch                           toucher             person animal       animal thing fragile
    cut, cut, cut, cutting          couper              person              food
    prepare                         préparer            person              food drink
    bring, brought, brought         apporter            person              food drink text thing fragile
    steal, stole, stolen            voler               person              food thing fragile vehicle
    repair                          réparer             person              vehicle opening clothing
    feed, fed, fed                  nourrir             person              animal
    admire                          admirer             person              person animal building
    paint                           peindre             person              opening building
    understand, understood, understood *  comprendre    person              text person
"""
# Present of je to ils, participle, stem of the future; those of -er, -ir as finir and -re as vendre follow rules.
CONJUGATIONS = """
    être          suis es est sommes êtes sont                                  été        ser
    avoir         ai as a avons avez ont                                        eu         aur
    aller         vais vas va allons allez vont                                 allé       ir
    acheter       achète achètes achète achetons achetez achètent               acheté     achèter
    appeler       appelle appelles appelle appelons appelez appellent           appelé     appeller
    nettoyer      nettoie nettoies nettoie nettoyons nettoyez nettoient         nettoyé    nettoier
    dormir        dors dors dort dormons dormez dorment                         dormi      dormir
    partir        pars pars part partons partez partent                         parti      partir
    courir        cours cours court courons courez courent                      couru      courr
    ouvrir        ouvre ouvres ouvre ouvrons ouvrez ouvrent                     ouvert     ouvrir
    revenir       reviens reviens revient revenons revenez reviennent           revenu     reviendr
    rire          ris ris rit rions riez rient                                  ri         rir
    sourire       souris souris sourit sourions souriez sourient                souri      sourir
    boire         bois bois boit buvons buvez boivent                           bu         boir
    voir          vois vois voit voyons voyez voient                            vu         verr
    lire          lis lis lit lisons lisez lisent                               lu         lir
    écrire        écris écris écrit écrivons écrivez écrivent                   écrit      écrir
    prendre       prends prends prend prenons prenez prennent                   pris       prendr
    comprendre    comprends comprends comprend comprenons comprenez comprennent  compris   comprendr
    vouloir       veux veux veut voulons voulez veulent                         voulu      voudr
    connaître     connais connais connaît connaissons connaissez connaissent    connu      connaîtr
    construire    construis construis construit construisons construisez construisent  construit  construir
    peindre       peins peins peint peignons peignez peignent                   peint      peindr
    suivre        suis suis suit suivons suivez suivent                         suivi      suivr
"""
WITHOUT_PLACE = {"leave", "come back"}  # which would make another sense of `at the market`
NOT_PREDICATIVE = {"new"}  # whose translation differs after `is`
FEELINGS = {"love", "hate"}  # which French has for `the` apples, where English has them for apples
WITH_ETRE = {"tomber", "arriver", "partir", "revenir", "rester"}  # whose past is formed with être
ASPIRATED = {
    "héros",
    "hibou",
    "hiboux",
    "hérisson",
    "hérissons",
    "haricot",
    "haricots",
    "hache",
    "haches",
}  # an h that le and la stay whole before
NAMES = {"Marie": "f", "Paul": "m", "Sophie": "f", "Pierre": "m", "Julie": "f", "Thomas": "m"}
PLACES = """
    in the garden       dans le jardin
    in the house        dans la maison
    in the kitchen      dans la cuisine
    in the street       dans la rue
    in the forest       dans la forêt
    in the park         dans le parc / au parc
    on the bridge       sur le pont
    on the beach        sur la plage / à la plage
    at the market       au marché
    at the hotel        à l'hôtel
    at the station      à la gare
    at school           à l'école
    in the village      dans le village / au village
    near the river      près de la rivière
    under the tree      sous l'arbre
    behind the church   derrière l'église
"""
TIMES = {
    "now": """
        today               aujourd'hui
        now                 maintenant
        this morning        ce matin
    """,
    "always": """
        every day           tous les jours / chaque jour
        every morning       tous les matins / chaque matin
        in winter           en hiver
    """,
    "past": """
        yesterday           hier
        last week           la semaine dernière
        this morning        ce matin
    """,
    "future": """
        tomorrow            demain
        next week           la semaine prochaine
        tonight             ce soir
        next year           l'année prochaine
    """,
}
